"""How commands end: one line on stderr and an exit code; with --json one document on stdout."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tritonkit.errors import BatchError, CheckFailedError, ConfigError, InferenceError, ServerError, TritonkitError
from tritonkit.spec import TensorSpec
from tritonkit.system.console import (
    JsonOption,
    application,
    exit_code,
    print_json,
    print_text,
    progress,
    reports_errors,
    table,
)

ERRORS: dict[str, BaseException] = {
    error.__class__.__name__: error
    for error in (
        CheckFailedError("the verdict failed"),
        ConfigError("epochs: 0"),
        BatchError("wrong shape"),
        ServerError("no answer"),
        InferenceError("refused"),
        TritonkitError("anything"),
        KeyboardInterrupt(),
    )
}
CODES = {"CheckFailedError": 1, "ServerError": 3, "InferenceError": 3, "KeyboardInterrupt": 130}


@pytest.fixture
def app() -> typer.Typer:
    application_under_test = application("Raise errors.")

    @application_under_test.callback()
    def group() -> None:
        """Have subcommands."""

    @application_under_test.command()
    @reports_errors
    def fail(kind: str, as_json: JsonOption = False) -> None:
        raise ERRORS[kind]

    return application_under_test


@pytest.mark.parametrize("kind", ERRORS)
def test_command_ends_with_one_line_and_a_code_when_an_error_is_ours(app: typer.Typer, kind: str) -> None:
    result = CliRunner().invoke(app, ["fail", kind])
    assert result.exit_code == CODES.get(kind, 2)
    assert result.stdout == ""
    assert result.stderr == f"error: {str(ERRORS[kind]) or 'stopped by Ctrl-C'}\n"


def test_command_prints_a_document_when_json_is_wanted(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["fail", "CheckFailedError", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": {"type": "CheckFailedError", "code": "check.failed", "message": "the verdict failed"}
    }


def test_table_shows_a_cell_as_it_is_when_it_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table(["file", "reason"], [["[red]a.jpg", "x" * 120], ["b.jpg", "empty"]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["file", "reason"], ["[red]a.jpg", "x" * 120], ["b.jpg", "empty"]]


def test_progress_goes_to_stderr_when_stdout_holds_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading") as report:
        report("writing [1/2]")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["reading", "writing [1/2]"]


def test_print_json_writes_our_values_when_they_are_nested(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"spec": [TensorSpec(name="é", dtype="FP32", shape=(3,))], "path": Path("a/b")})
    assert json.loads(capsys.readouterr().out) == {
        "spec": [{"name": "é", "dtype": "FP32", "shape": [3]}],
        "path": "a/b",
    }


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (IsADirectoryError(21, "Is a directory", "out.json"), 2, "out.json: Is a directory"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 2, "onnx is missing; install it with"),
        (ZeroDivisionError("division by zero"), 3, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_command_prints_no_traceback_when_an_error_is_foreign(error: Exception, code: int, message: str) -> None:
    foreign = typer.Typer()

    @foreign.command()
    @reports_errors
    def broken(as_json: JsonOption = False) -> None:
        raise error

    result = CliRunner().invoke(foreign, ["--json"])
    assert result.exit_code == code
    assert message in result.stderr
    assert message in json.loads(result.stdout)["error"]["message"]
    assert "Traceback" not in result.stderr


HOSTILE = "a\x1b[2J\x9b\u202eb\n.jpg"
SHOWN = r"a\x1b[2J\x9b\u202eb\n.jpg"


def test_characters_that_control_a_terminal_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    table(["picture", "answer"], [[HOSTILE, HOSTILE]])
    with progress(HOSTILE):
        pass
    print_text("\x1b]0;title\x07")
    print_json([HOSTILE])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == [SHOWN, SHOWN]
    assert printed.err == f"{SHOWN}\n"
    assert r"\x1b]0;title\x07" in printed.out
    assert not {"\x1b", "\x9b", "\u202e"} & set(printed.out)
    assert json.loads(printed.out[printed.out.index("[\n") :]) == [HOSTILE]


def test_path_is_shortened_in_front_where_the_terminal_is_narrow() -> None:
    from rich.console import Console

    from tritonkit.system.path_cell import PathCell

    console = Console(width=20, color_system=None)
    with console.capture() as capture:
        console.print(PathCell("customer/archive/originals/IMG_1.jpg"))
    assert capture.get().strip() == "…originals/IMG_1.jpg"


def test_full_disk_is_the_outside_and_a_missing_file_is_not() -> None:
    assert exit_code(OSError(errno.ENOSPC, "full", "a.jsonl")) == 3
    assert exit_code(ConnectionResetError()) == 3
    assert exit_code(FileNotFoundError(errno.ENOENT, "no such file", "a.jpg")) == 2
    assert exit_code(PermissionError(errno.EACCES, "denied", "a.jpg")) == 2


def test_json_has_null_when_a_figure_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"figures": [float("nan"), float("-inf"), 0.5], "name": "ñ"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "figures": [None, None, 0.5],
        "name": "ñ",
    }


def test_command_shows_its_help_when_called_without_arguments(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Raise errors." in result.output
