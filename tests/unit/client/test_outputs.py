"""Answer files: existing files are lost neither to a new job nor to a job that was killed at any step."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.infer import Row
from client.outputs.job import Job, JobSettings, open_job
from tests.errors import error_codes, raises
from tests.fixture_types import Command
from tests.pictures import png
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

NAMES = ("a", "b", "c")


def sqlite_of_another_program() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE row (id)")
        return database.serialize()


SQLITE_OF_ANOTHER_PROGRAM = sqlite_of_another_program()


@contextmanager
def job(folder: Path, *names: str, overwrite: bool = False) -> Iterator[Job]:
    """Open outputs of these names as `client infer` does."""
    paths = [folder / name for name in names]
    settings = JobSettings(model="m", version="1", spec="0" * 64, top=1, outputs=names)
    example = Answer({"embedding": [1.0] * 4}, embedding=np.ones(4, np.float32))
    with open_job(paths, settings, example, lambda message: None, overwrite) as opened:
        yield opened


def write(folder: Path, *names: str, overwrite: bool = False, pictures: Sequence[str] = NAMES) -> None:
    """Run a job."""
    with job(folder, *names, overwrite=overwrite) as opened:
        for picture in pictures:
            if not opened.has_row(picture):
                opened.write(row(picture))


def row(picture: str) -> Row:
    return Row(picture, Answer({"embedding": [float(ord(picture))] * 4}, embedding=np.ones(4, np.float32)))


def interrupted(folder: Path, *names: str) -> None:
    """Run a job whose client is interrupted after two rows."""
    with contextlib.suppress(KeyboardInterrupt), job(folder, *names) as opened:
        for picture in NAMES[:2]:
            if not opened.has_row(picture):
                opened.write(row(picture))
        raise KeyboardInterrupt


def files(folder: Path) -> dict[str, bytes]:
    """All files; of a job's own only the rows, because opening it changes its header."""
    return {path.name: read_file(path) for path in folder.iterdir()}


def read_file(path: Path) -> bytes:
    data = path.read_bytes()
    is_job = data.startswith(b"SQLite") and data != SQLITE_OF_ANOTHER_PROGRAM
    return "\n".join(rows_of(path.with_suffix(""))).encode() if is_job else data


def rows_of(output: Path) -> list[str]:
    """The names in the job of an output."""
    with contextlib.closing(sqlite3.connect(output.with_name(f"{output.name}.job"))) as database:
        return [name for (name,) in database.execute("SELECT name FROM row ORDER BY id")]


@pytest.mark.parametrize(
    ("outputs", "existing"),
    [
        (("new.jsonl", "mine.csv"), "mine.csv"),
        (("new.jsonl", "e.npy"), "e.npy"),
        (("new.jsonl", "e.npy"), "e.paths.json"),
        (("e.npy",), "e.paths.json"),
    ],
)
def test_existing_file_is_not_replaced_when_a_job_starts(
    tmp_path: Path, outputs: tuple[str, ...], existing: str
) -> None:
    (tmp_path / existing).write_text("mine\n")
    with raises(InputError, "output.exists", f"{existing}: "):
        write(tmp_path, *outputs)
    assert files(tmp_path) == {existing: b"mine\n"}
    write(tmp_path, *outputs, overwrite=True)
    assert (tmp_path / outputs[-1]).stat().st_size > 10


def test_rows_of_a_finished_job_stay_when_another_names_its_file_second(tmp_path: Path) -> None:
    write(tmp_path, "all.csv")
    before = files(tmp_path)
    with raises(InputError, "output.exists", "all.csv: "):
        write(tmp_path, "b.jsonl", "all.csv", pictures="x")
    assert files(tmp_path) == before


def test_second_output_of_two_jobs_is_written_by_the_first_that_ends(tmp_path: Path) -> None:
    with job(tmp_path, "a.jsonl", "all.csv") as opened:
        opened.write(row("a"))
        with raises(InputError, "output.locked", "a.jsonl.job: "):
            write(tmp_path, "a.jsonl")
        with raises(InputError, "output.changed"), job(tmp_path, "b.jsonl", "all.csv") as second:
            second.write(row("b"))
            (tmp_path / "all.csv").write_text("of another job")
        (tmp_path / "all.csv").unlink()
    assert rows_of(tmp_path / "b.jsonl") == ["b"]
    assert set(files(tmp_path)) == {"a.jsonl", "a.jsonl.job", "all.csv", "b.jsonl.job"}


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a picture", b"a line\nand one\n", SQLITE_OF_ANOTHER_PROGRAM])
def test_file_named_like_a_job_is_not_touched_when_it_is_none(tmp_path: Path, content: bytes, overwrite: bool) -> None:
    (tmp_path / "a.jsonl.job").write_bytes(content)
    with raises(InputError, "job.invalid", "a.jsonl.job: "):
        write(tmp_path, "a.jsonl", overwrite=overwrite)
    assert files(tmp_path) == {"a.jsonl.job": content}


@pytest.mark.parametrize("is_finished", [True, False])
def test_job_of_0_1_is_refused_and_overwrite_replaces_it(tmp_path: Path, is_finished: bool) -> None:
    (tmp_path / "a.jsonl.made.json").write_text('{"model": "m", "top": 1}')
    (tmp_path / ("a.jsonl" if is_finished else "a.jsonl.partial")).write_text('{"path": "a", "label": "x"}\n')
    before = files(tmp_path)
    with raises(InputError, "job.old", "a.jsonl.made.json: "):
        write(tmp_path, "a.jsonl")
    assert files(tmp_path) == before
    write(tmp_path, "a.jsonl", overwrite=True)
    assert set(files(tmp_path)) == {"a.jsonl", "a.jsonl.job"}


def test_deleted_output_is_written_again_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "all.csv")
    undisturbed = files(tmp_path)
    (tmp_path / "all.csv").unlink()
    write(tmp_path, "a.jsonl", "all.csv")
    assert files(tmp_path)["all.csv"] == undisturbed["all.csv"]
    (tmp_path / "all.csv").write_text("path,note\n")
    with raises(InputError, "output.changed", "all.csv: "):
        write(tmp_path, "a.jsonl", "all.csv", pictures="abcd")
    assert (tmp_path / "all.csv").read_text() == "path,note\n"


def test_other_settings_start_a_new_job_when_the_outputs_were_deleted(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    (tmp_path / "a.jsonl").unlink()
    settings = JobSettings(model="other", spec="0" * 64, top=1, outputs=("a.jsonl",))
    with open_job([tmp_path / "a.jsonl"], settings, Answer({"label": "x"}), lambda message: None) as opened:
        assert opened.earlier == 0
        opened.write(Row("new", Answer({"label": "x"})))
    assert rows_of(tmp_path / "a.jsonl") == ["new"]


def test_job_is_kept_when_the_retry_of_its_only_image_is_interrupted(tmp_path: Path) -> None:
    path, settings = tmp_path / "a.jsonl", JobSettings(model="m", spec="0" * 64, top=1, outputs=("a.jsonl",))
    for error in (None, KeyboardInterrupt, None):
        with (
            contextlib.suppress(KeyboardInterrupt),
            open_job([path], settings, Answer({"label": "x"}), lambda message: None, retry_failed=True) as opened,
        ):
            if error:
                raise error
            opened.write(Row("broken", None, "cannot be read"))
    assert rows_of(path) == ["broken"]


def test_interrupted_job_is_one_file_with_its_rows(tmp_path: Path) -> None:
    interrupted(tmp_path, "a.jsonl", "all.csv")
    assert set(files(tmp_path)) == {"a.jsonl.job"}
    assert rows_of(tmp_path / "a.jsonl") == list(NAMES[:2])


@pytest.mark.parametrize("first", ["a.jsonl", "a.npy"])
def test_file_of_another_is_kept_when_it_came_while_a_job_was_interrupted(tmp_path: Path, first: str) -> None:
    interrupted(tmp_path, first, "all.csv")
    write(tmp_path, "all.csv", pictures="xyz")
    before = files(tmp_path)
    with raises(InputError, "output.changed", "all.csv: "):
        write(tmp_path, first, "all.csv")
    assert files(tmp_path) == before
    (tmp_path / "all.csv").unlink()
    write(tmp_path, first, "all.csv")
    assert (tmp_path / "all.csv").read_text().count("\n") == 1 + len(NAMES)


@pytest.mark.parametrize("late", ["a.jsonl", "all.csv", "e.paths.json"])
def test_rows_are_kept_when_a_file_comes_while_the_job_goes_on(tmp_path: Path, late: str) -> None:
    outputs = ("a.jsonl", "all.csv", "e.npy")

    def disturbed() -> None:
        with job(tmp_path, *outputs) as opened:
            for picture in NAMES:
                opened.write(row(picture))
            (tmp_path / late).write_text("theirs")

    with raises(InputError, "output.changed", f"{late}: "):
        disturbed()
    assert (tmp_path / late).read_text() == "theirs"
    assert len(rows_of(tmp_path / "a.jsonl")) == len(NAMES)
    (tmp_path / late).unlink()
    write(tmp_path, *outputs)
    (tmp_path / "undisturbed").mkdir()
    write(tmp_path / "undisturbed", *outputs)
    undisturbed = {name: data for name, data in files(tmp_path / "undisturbed").items() if name != "a.jsonl.job"}
    assert {name: (tmp_path / name).read_bytes() for name in undisturbed} == undisturbed


@pytest.mark.parametrize("argument", ["list.csv", "*.csv", "link.tsv"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_output_that_is_an_input_is_refused(command: Command, tmp_path: Path, argument: str, more: list[str]) -> None:
    (tmp_path / "list.csv").write_text("path\nx.png\n")
    (tmp_path / "link.tsv").symlink_to("list.csv")
    words = ("client", "infer", tmp_path / argument, "--from", "m.onnx", "--output", tmp_path / "new.jsonl")
    result = command(*words, "--output", tmp_path / "list.csv", *more, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert error_codes(result) == {"output.is_input"}
    assert f"{tmp_path / 'list.csv'}: " in result.stderr
    assert (tmp_path / "list.csv").read_text() == "path\nx.png\n"


def test_output_that_is_the_list_on_standard_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("x.png\n")
    words = ["infer", "-", "--from", "m.onnx", "--overwrite", "--output", str(tmp_path / "list.csv"), "--json"]
    program = [sys.executable, "-c", "from client.cli import app; app()", *words]
    with (tmp_path / "list.csv").open() as listed:
        completed = subprocess.run(program, stdin=listed, capture_output=True, text=True, timeout=100)
    assert completed.returncode == 2
    assert json.loads(completed.stdout)["error"]["code"] == "output.is_input"
    assert "list.csv: " in completed.stderr
    assert (tmp_path / "list.csv").read_text() == "x.png\n"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (["--url", "127.0.0.1:8001"], "--url"),
        (["--tls-ca", "a.pem", "--tls-cert", "c.pem", "--tls-key", "k.pem"], "--tls-ca, --tls-cert, --tls-key"),
        (["--wait", 5, "--deadline", 1, "--patience", 0], "--wait, --deadline, --patience"),
        (["--no-shared-memory"], "--no-shared-memory"),
        (["--shared-memory"], "--shared-memory"),
    ],
)
def test_option_about_a_server_is_refused_when_a_file_answers(
    command: Command, tmp_path: Path, options: list[object], flags: str
) -> None:
    result = command("client", "infer", tmp_path, "--from", "m.onnx", *options, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert error_codes(result) == {"option.from_server"}
    assert result.stderr.strip().endswith(f"; omit {flags}")


def test_every_is_refused_when_the_arguments_contain_no_video(command: Command, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(png())
    (tmp_path / "list.csv").write_text(f"path\n{photos / 'cat.jpg'}\n")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    refused = command("client", "infer", photos, photos / "*.jpg", "--every", 25, "--from", "m.onnx", "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {"option.every_unused"})
    for argument in (tmp_path / "list.csv", tmp_path / "*.mp4", "https://127.0.0.1:9/clip.mp4"):
        assert "--every" not in command("client", "infer", argument, "--every", 5, "--from", "m.onnx").stderr
