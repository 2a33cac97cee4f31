"""Answer files: existing files are lost neither to a new job nor to a job that was killed at any step."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from client.infer import Row
from client.outputs.answer_files import AnswerFiles, open_answer_files
from client.outputs.job_settings import JobSettings
from tests.client.cli_errors import error_codes
from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

Command = Callable[..., Result]

NAMES = ("a", "b", "c")
KILLER = Path(__file__).with_name("killed_writer.py")


@contextmanager
def job(folder: Path, *names: str, overwrite: bool = False) -> Iterator[AnswerFiles]:
    """Open outputs of these names as `client infer` does."""
    paths = [folder / name for name in names]
    settings = JobSettings(model="m", version="1", spec="0" * 64, top=1, outputs=names)
    example = Answer({"embedding": [1.0] * 4}, embedding=np.ones(4, np.float32))
    with open_answer_files(paths, settings, example, lambda message: None, overwrite) as answers:
        yield answers


def write(folder: Path, *names: str, overwrite: bool = False, pictures: Sequence[str] = NAMES) -> None:
    """Run a job."""
    with job(folder, *names, overwrite=overwrite) as answers:
        for picture in pictures:
            if not answers.has_row(picture):
                answers.write(row(picture))


def row(picture: str) -> Row:
    return Row(picture, Answer({"embedding": [float(ord(picture))] * 4}, embedding=np.ones(4, np.float32)))


def interrupted(folder: Path, *names: str) -> None:
    """Run a job whose client is interrupted after two rows."""
    with contextlib.suppress(KeyboardInterrupt), job(folder, *names) as answers:
        for picture in NAMES[:2]:
            if not answers.has_row(picture):
                answers.write(row(picture))
        raise KeyboardInterrupt


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffixes", [(".npy",), (".jsonl", ".csv")])
def test_files_are_those_of_an_undisturbed_writer_when_it_is_killed_at_any_step(
    tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    program = [sys.executable, str(KILLER), str(tmp_path / "job"), *suffixes]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    completed = subprocess.run(program, capture_output=True, text=True, timeout=100, env=environment)
    assert completed.returncode == 0, completed.stderr
    for found in json.loads(completed.stdout).values():
        assert found["steps"] > 10
        assert found["wrong"] == {}, completed.stderr


@pytest.mark.parametrize("names", [("a.jsonl",), ("a.npy", "a.csv")])
def test_rows_count_once_when_a_client_was_killed_after_it_had_added_them(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    write(tmp_path, *names, pictures=NAMES[:1])
    interrupted(tmp_path, *names)
    journal = tmp_path / f"{names[0]}.partial"
    rows = journal.read_bytes()
    assert len(rows.splitlines()) == 1
    write(tmp_path, *names, pictures=NAMES[:1])
    journal.write_bytes(rows)
    with job(tmp_path, *names) as answers:
        assert answers.earlier == 2


@pytest.mark.parametrize(
    ("outputs", "existing"),
    [
        (("new.jsonl", "mine.csv"), "mine.csv"),
        (("new.jsonl", "e.npy"), "e.npy"),
        (("new.jsonl", "e.npy"), "e.paths.json"),
        (("e.npy",), "e.paths.json"),
        (("new.jsonl", "mine.csv"), "mine.csv.made.json"),
    ],
)
def test_existing_file_is_not_replaced_when_a_job_starts(
    tmp_path: Path, outputs: tuple[str, ...], existing: str
) -> None:
    (tmp_path / existing).write_text("mine\n")
    with raises(InputError, "output.exists") as caught:
        write(tmp_path, *outputs)
    assert f"{existing}: " in str(caught.value)
    assert files(tmp_path) == {existing: b"mine\n"}
    write(tmp_path, *outputs, overwrite=True)
    assert not (tmp_path / "mine.csv.made.json").exists()
    assert (tmp_path / outputs[-1]).stat().st_size > 10


def test_rows_of_a_finished_job_stay_when_another_names_its_file_second(tmp_path: Path) -> None:
    write(tmp_path, "all.csv")
    before = files(tmp_path)
    with raises(InputError, "output.exists") as caught:
        write(tmp_path, "b.jsonl", "all.csv", pictures="x")
    assert "all.csv, " in str(caught.value)
    assert files(tmp_path) == before


def test_second_output_is_refused_when_another_client_writes_it(tmp_path: Path) -> None:
    with job(tmp_path, "a.jsonl", "all.csv") as answers:
        answers.write(row("a"))
        with raises(InputError, "output.locked") as caught:
            write(tmp_path, "b.jsonl", "all.csv")
        assert "all.csv.partial: " in str(caught.value)
    assert set(files(tmp_path)) == {"a.jsonl", "a.jsonl.made.json", "all.csv"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_second_output_is_refused_when_an_interrupted_job_has_rows_for_it(tmp_path: Path, overwrite: bool) -> None:
    interrupted(tmp_path, "all.csv")
    before = files(tmp_path)
    with raises(InputError, "output.other_job") as caught:
        write(tmp_path, "b.jsonl", "all.csv", overwrite=overwrite)
    assert "all.csv.partial: " in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("first", ["a.jsonl", "a.npy"])
def test_file_of_another_is_kept_when_it_came_while_a_job_was_interrupted(tmp_path: Path, first: str) -> None:
    interrupted(tmp_path, first, "all.csv")
    write(tmp_path, "all.csv", pictures="xyz")
    before = files(tmp_path)
    with raises(InputError, "output.changed") as caught:
        write(tmp_path, first, "all.csv")
    assert "all.csv: " in str(caught.value)
    assert files(tmp_path) == before
    (tmp_path / "all.csv").unlink()
    write(tmp_path, first, "all.csv")
    assert (tmp_path / "all.csv").read_text().count("\n") == 1 + len(NAMES)


@pytest.mark.parametrize("late", ["a.jsonl", "all.csv", "e.paths.json"])
def test_rows_are_kept_when_a_file_comes_while_the_job_goes_on(tmp_path: Path, late: str) -> None:
    outputs = ("a.jsonl", "all.csv", "e.npy")

    def disturbed() -> None:
        with job(tmp_path, *outputs) as answers:
            for picture in NAMES:
                answers.write(row(picture))
            (tmp_path / late).write_text("theirs")

    with raises(InputError, "output.changed") as caught:
        disturbed()
    assert f"{late}: " in str(caught.value)
    assert (tmp_path / late).read_text() == "theirs"
    assert (tmp_path / "a.jsonl.partial").read_text().count("\n") == len(NAMES)
    (tmp_path / late).unlink()
    write(tmp_path, *outputs)
    (tmp_path / "undisturbed").mkdir()
    write(tmp_path / "undisturbed", *outputs)
    undisturbed = files(tmp_path / "undisturbed")
    assert {name: (tmp_path / name).read_bytes() for name in undisturbed} == undisturbed


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a picture", b"a line\nand one\n", b'{"name": "x"}\n'])
def test_file_named_like_a_journal_is_not_touched_when_it_is_none(
    tmp_path: Path, content: bytes, finished: bool, overwrite: bool
) -> None:
    if finished:
        write(tmp_path, "a.jsonl")
    (tmp_path / "a.jsonl.partial").write_bytes(content)
    before = files(tmp_path)
    with raises(InputError, "journal.invalid") as caught:
        write(tmp_path, "a.jsonl", overwrite=overwrite)
    assert "a.jsonl.partial: " in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("torn", [b'{"pa', b'{"path": "x", "lab', b"\0" * 5000])
def test_torn_row_alone_is_no_journal_without_the_job_settings(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "a.jsonl.partial").write_bytes(torn)
    with raises(InputError, "output.no_settings") as caught:
        write(tmp_path, "a.jsonl")
    assert "a.jsonl.made.json" in str(caught.value)
    assert files(tmp_path) == {"a.jsonl.partial": torn}
    interrupted(tmp_path / "job", "a.jsonl")
    (tmp_path / "job" / "a.jsonl.partial").write_bytes(torn)
    write(tmp_path / "job", "a.jsonl")
    assert (tmp_path / "job" / "a.jsonl").read_text().count("\n") == len(NAMES)


def test_interrupted_client_leaves_no_claims_and_a_killed_one_s_are_no_hindrance(tmp_path: Path) -> None:
    interrupted(tmp_path, "a.jsonl", "all.csv")
    assert set(files(tmp_path)) == {"a.jsonl.partial", "a.jsonl.made.json"}
    (tmp_path / "all.csv.partial").touch()
    write(tmp_path, "a.jsonl", "all.csv")
    assert set(files(tmp_path)) == {"a.jsonl", "a.jsonl.made.json", "all.csv"}


def test_journal_without_a_note_of_placed_files_is_continued(tmp_path: Path) -> None:
    """The settings of earlier versions have no such field; neither have those of a job that has not renamed a file."""
    interrupted(tmp_path, "a.csv", "b.jsonl")
    assert "placed" not in json.loads((tmp_path / "a.csv.made.json").read_text())
    write(tmp_path, "a.csv", "b.jsonl")
    assert "placed" not in json.loads((tmp_path / "a.csv.made.json").read_text())
    assert (tmp_path / "b.jsonl").read_text().count("\n") == len(NAMES)


def test_vectors_without_names_say_how_to_go_on_from_the_journal(tmp_path: Path) -> None:
    """A client of an earlier version, which renamed the vectors first, could leave such files."""
    write(tmp_path, "e.npy")
    undisturbed = files(tmp_path)
    interrupted(tmp_path / "again", "e.npy")
    (tmp_path / "again" / "e.npy").write_bytes(undisturbed["e.npy"])
    with raises(InputError, "output.missing") as caught:
        write(tmp_path / "again", "e.npy")
    assert "e.paths.json: " in str(caught.value)
    assert f"2 rows in {tmp_path / 'again' / 'e.npy.partial'}" in str(caught.value)
    (tmp_path / "again" / "e.npy").unlink()
    write(tmp_path / "again", "e.npy")
    assert files(tmp_path / "again") == undisturbed


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
    command: Command, photos: Path, options: list[object], flags: str
) -> None:
    result = command("client", "infer", photos, "--from", "m.onnx", *options, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert error_codes(result) == {"option.from_server"}
    assert result.stderr.strip().endswith(f"; omit {flags}")


def test_every_is_refused_when_the_arguments_contain_no_video(command: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{photos / 'cat.jpg'}\n")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    refused = command("client", "infer", photos, photos / "*.jpg", "--every", 25, "--from", "m.onnx", "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {"option.every_unused"})
    for argument in (tmp_path / "list.csv", tmp_path / "*.mp4", "https://127.0.0.1:9/clip.mp4"):
        assert "--every" not in command("client", "infer", argument, "--every", 5, "--from", "m.onnx").stderr


def test_output_is_claimed_by_a_lock_that_other_programs_can_see(tmp_path: Path) -> None:
    with (
        job(tmp_path, "a.jsonl", "all.csv"),
        (tmp_path / "all.csv.partial").open("rb") as claim,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(claim, fcntl.LOCK_SH | fcntl.LOCK_NB)
