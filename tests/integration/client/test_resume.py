"""`client infer --output`: killed at any moment and started again, it writes the files of an undisturbed run."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import Result

from scripts.drills.fault_drill import drill, make_pictures
from tests.errors import error_codes
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import architecture_of, dense_architecture_of
from tritonkit.networks.network import Network, save_network
from tritonkit.spec import ModelSpec, Normalize, TaskSpec, image_input
from tritonkit.tasks import task_for

Command = Callable[..., Result]

COLOURS = TaskSpec(task="multiclass", labels=("red", "green", "blue"))
TAGS = TaskSpec(task="multilabel", labels=("old", "new", "rare"))
VECTOR = TaskSpec(task="embedding", embedding_size=8)
MODELS: dict[str, TaskSpec] = {
    "colours": COLOURS,
    "tags": TAGS,
    "vector": VECTOR,
    "all": TaskSpec(task="heads", heads={"colour": COLOURS, "tags": TAGS, "vector": VECTOR}),
    "mask": TaskSpec(task="segmentation", labels=("ground", "thing")),
}
COUNT = 60
SUFFIXES = (".jsonl", ".csv", ".parquet", ".npy")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint with random weights for each task."""
    folder = tmp_path_factory.mktemp("models")
    for name, task_spec in MODELS.items():
        torch.manual_seed(0)
        preprocess = Preprocess(height=64, width=64) if name == "mask" else Preprocess(height=32, width=32)
        network = dense_architecture_of("Unet", "tu-test_resnet") if name == "mask" else None
        spec = ModelSpec(
            name=name,
            architecture=network or architecture_of("test_resnet", 32, 32),
            input=image_input(preprocess),
            outputs=task_for(task_spec).outputs(image_input(preprocess)),
            preprocess=preprocess,
            normalize=Normalize(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
            **task_spec.model_dump(),
        )
        save_network(folder / f"{name}.safetensors", Network(spec))
    return {name: folder / f"{name}.safetensors" for name in MODELS}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small images; one of the files is not an image."""
    folder = tmp_path_factory.mktemp("given") / "pictures"
    make_pictures(folder, COUNT)
    return folder


def outputs(folder: Path, *suffixes: str) -> list[object]:
    return [word for suffix in suffixes for word in ("--output", folder / f"a{suffix}")]


def files(folder: Path) -> dict[str, bytes]:
    """All files but the job's own, whose bytes depend on its history."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".job"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def interrupt(folder: Path, rows: int, first: str = "a.jsonl") -> None:
    """Turn a finished job into the file of a client that was killed after `rows` rows."""
    with contextlib.closing(sqlite3.connect(folder / f"{first}.job")) as database, database:
        database.execute("DELETE FROM row WHERE id > ?", [rows])
        database.execute("DELETE FROM file")
        database.execute("UPDATE job SET complete = 0, written = 0")
    for path in folder.glob("a.*"):
        if path.name != f"{first}.job":
            path.unlink()


def has_row(output: Path) -> bool:
    """Whether a client that runs has committed a row."""
    try:
        return bool(kept(output))
    except sqlite3.Error:
        return False


def kept(output: Path) -> list[str]:
    """The names in the job of an output."""
    with contextlib.closing(sqlite3.connect(output.with_name(f"{output.name}.job"))) as database:
        return [name for (name,) in database.execute("SELECT name FROM row ORDER BY id")]


@pytest.mark.parametrize("rows", [0, 1, 51, COUNT])
@pytest.mark.parametrize(("model", "suffixes"), [("colours", SUFFIXES[:3]), ("all", SUFFIXES)])
def test_output_is_the_undisturbed_one_when_a_killed_run_is_continued(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path, model: str, suffixes: Any, rows: int
) -> None:
    # Batches of one image: kernels sum larger batches in another order.
    words = ("client", "infer", pictures, "--from", models[model], "--batch", 1, *outputs(tmp_path, *suffixes))
    assert command(*words).exit_code == 1
    undisturbed = files(tmp_path)
    interrupt(tmp_path, rows)
    assert not files(tmp_path)
    result = command(*words, "--json")
    assert result.exit_code == 1, result.stderr
    document = json.loads(result.stdout)
    assert (document["answered"] + document["failed"], document.get("earlier", 0)) == (COUNT - rows, rows)
    assert files(tmp_path) == undisturbed


def test_embeddings_keep_every_bit_when_a_killed_run_is_continued(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    words = ("client", "infer", pictures, "--from", models["vector"], "--batch", 1)
    both = outputs(tmp_path, ".npy", ".jsonl")
    command(*words, *both)
    undisturbed = files(tmp_path)
    interrupt(tmp_path, 40, first="a.npy")
    assert command(*words, *both).exit_code == 1
    assert files(tmp_path) == undisturbed
    vectors = np.array([row["embedding"] for row in lines(tmp_path / "a.jsonl") if "embedding" in row], np.float32)
    assert (vectors == np.load(tmp_path / "a.npy")).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_nothing_is_touched_when_a_finished_job_has_nothing_new(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    words = ("client", "infer", pictures, "--from", models["colours"], *outputs(tmp_path, *SUFFIXES[:3]))
    words = (*words, "--gallery", tmp_path / "sheet.html")
    command(*words)
    written = [path for path in tmp_path.iterdir() if path.suffix != ".job"]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in written}
    result = command(*words)
    assert result.exit_code == 0, result.stderr
    assert re.search(rf"{tmp_path / 'a.jsonl'} .*\b{COUNT} rows", result.stdout)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in written} == before


@pytest.mark.parametrize("first", SUFFIXES)
def test_only_new_pictures_are_answered_when_the_folder_grew(
    command: Command, models: dict[str, Path], tmp_path: Path, first: str
) -> None:
    make_pictures(tmp_path / "given", 6)
    first_pictures = list((tmp_path / "given").iterdir())[3:]
    (tmp_path / "out").mkdir()
    other_suffixes = [suffix for suffix in SUFFIXES if suffix != first]
    words = (
        "client",
        "infer",
        "--from",
        models["vector"],
        "--batch",
        1,
        *outputs(tmp_path / "out", first, *other_suffixes),
    )
    assert command(*words, *first_pictures).exit_code == 0
    result = command(*words, tmp_path / "given", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["answered"], document["earlier"]) == (3, 3)
    rows = lines(tmp_path / "out" / "a.jsonl")
    assert [row["path"] for row in rows[:3]] == [str(path) for path in first_pictures]
    names = {str(path) for path in (tmp_path / "given").iterdir()}
    assert {row["path"] for row in rows} == names
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    assert (np.load(tmp_path / "out" / "a.npy") == vectors).all()
    listed = json.loads((tmp_path / "out" / "a.paths.json").read_text())
    columns = pyarrow.parquet.read_table(tmp_path / "out" / "a.parquet")
    with (tmp_path / "out" / "a.csv").open(newline="") as file:
        csv_names = [row["path"] for row in csv.DictReader(file)]
    assert [row["path"] for row in rows] == listed == columns.column("path").to_pylist() == csv_names
    assert (np.array(columns.column("embedding").to_pylist(), np.float32) == vectors).all()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_failed_pictures_are_answered_again_when_asked_to(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "given")
    (tmp_path / "given" / "b.jpg").write_bytes(b"not yet")
    words = ("client", "infer", tmp_path / "given", "--from", models["colours"], "--output", tmp_path / "a.jsonl")
    assert command(*words).exit_code == 1
    shutil.copy(photos / "cat.jpg", tmp_path / "given" / "b.jpg")
    assert "nothing new" in command(*words).stdout
    result = command(*words, "--retry-failed", "--json")
    assert result.exit_code == 0, result.stderr
    assert [Path(row["path"]).name for row in json.loads(result.stdout)["rows"]] == ["b.jpg"]
    rows = lines(tmp_path / "a.jsonl")
    assert sorted(row["path"] for row in rows) == sorted(map(str, (tmp_path / "given").iterdir()))
    assert not [row for row in rows if "error" in row]


def test_failed_pictures_of_an_interrupted_run_have_one_row_when_retried(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    words = ("client", "infer", pictures, "--from", models["colours"], *outputs(tmp_path, ".jsonl", ".csv"))
    command(*words)
    interrupt(tmp_path, 55)
    assert command(*words, "--retry-failed").exit_code == 1
    names = [row["path"] for row in lines(tmp_path / "a.jsonl")]
    assert len(names) == COUNT == len(set(names))
    assert sum("error" in row for row in lines(tmp_path / "a.jsonl")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", 2], r"top: .*3.* 2\b"),
        (["--from", "tags"], r"model: .*colours.* tags\b"),
        (["--output", "more.csv"], r"outputs: .*\('a\.jsonl',\).*\('a\.jsonl', 'more\.csv'\)"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name_and_overwrite_starts_over(
    command: Command,
    models: dict[str, Path],
    pictures: Path,
    tmp_path: Path,
    arguments: Any,
    message: str,
    finished: bool,
) -> None:
    images = [pictures / "000000.png", pictures / "000001.png"]
    words = ("client", "infer", *images, "--from", models["colours"], "--output", tmp_path / "a.jsonl")
    command(*words)
    if not finished:
        interrupt(tmp_path, 1)
    before = files(tmp_path)
    changed = [models.get(word, tmp_path / word if word == "more.csv" else word) for word in arguments]
    result = command(*words, *changed, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"output.other_settings"}
    assert re.search(message, result.stderr)
    assert "--overwrite" in result.stderr
    assert files(tmp_path) == before
    assert command(*words, *changed, "--overwrite").exit_code == 0
    assert len(lines(tmp_path / "a.jsonl")) == 2


def test_outputs_to_set_are_named_when_a_file_was_written_together_with_others(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    words = ("client", "infer", pictures / "000000.png", "--from", models["colours"])
    both = outputs(tmp_path, ".parquet", ".csv")
    assert command(*words, *both).exit_code == 0
    before = files(tmp_path)
    for alone in (outputs(tmp_path, ".csv"), outputs(tmp_path, ".csv", ".parquet")):
        result = command(*words, *alone, "--top", 2, "--json")
        assert result.exit_code == 2
        assert error_codes(result) == {"output.written_with_others"}
        assert "a.csv: " in result.stderr
        assert "a.parquet.job" in result.stderr
        assert " ".join(map(str, both)) in result.stderr
        assert files(tmp_path) == before
    assert "nothing new" in command(*words, *both).stdout


def test_output_of_unknown_origin_is_not_written_over(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("mine\n")
    words = ("client", "infer", pictures, "--from", models["colours"], "--output", tmp_path / "a.jsonl")
    result = command(*words, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"output.exists"}
    assert files(tmp_path) == {"a.jsonl": b"mine\n"}
    assert command(*words, "--overwrite").exit_code == 1


@pytest.mark.parametrize("option", ["--overwrite", "--retry-failed"])
def test_option_about_files_is_refused_when_there_are_none(
    command: Command, models: dict[str, Path], pictures: Path, option: str
) -> None:
    result = command("client", "infer", pictures, "--from", models["colours"], option, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert error_codes(result) == {"option.output_missing"}
    assert f"{option}: " in result.stderr


def test_second_client_is_refused_when_one_writes_the_same_output(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    with (tmp_path / "a.jsonl.job").open("wb") as other_file:
        fcntl.flock(other_file, fcntl.LOCK_EX)
        words = ("client", "infer", pictures, "--from", models["colours"], "--output", tmp_path / "a.jsonl")
        result = command(*words, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"output.locked"}
    assert not files(tmp_path)


def test_job_stays_whole_when_the_disk_is_full(exported_once: Path, tmp_path: Path) -> None:
    graph = exported_once / "pets" / "1" / "model.onnx"
    make_pictures(tmp_path / "given", 1500)
    words = ["infer", tmp_path / "given", "--from", graph, "--output", tmp_path / "a.jsonl", "--batch", 1]
    program = [sys.executable, "-c", "from client.cli import app; app()", *map(str, words)]
    max_bytes = 100_000  # of a file: the kernel then refuses to write, as on a full disk

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    full = subprocess.run(program, preexec_fn=limit, capture_output=True, text=True, timeout=100)
    assert full.returncode == 3, full.stderr
    assert "a.jsonl.job: " in full.stderr
    assert "Traceback" not in full.stderr
    kept_rows = kept(tmp_path / "a.jsonl")
    assert 0 < len(kept_rows) < 1500
    assert f"{len(kept_rows)} rows are kept in {tmp_path / 'a.jsonl.job'}; " in full.stderr
    completed = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert completed.returncode == 1, completed.stderr
    assert [row["path"] for row in lines(tmp_path / "a.jsonl")][: len(kept_rows)] == kept_rows
    assert len(lines(tmp_path / "a.jsonl")) == 1500


def test_masks_are_all_there_and_named_alike_when_a_killed_run_is_continued(
    command: Command, models: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("a.png", "a.bmp", "b.png", "a.jpg", "c.png"):
        (tmp_path / "given").mkdir(exist_ok=True)
        Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "given" / name)
    words = ("client", "infer", tmp_path / "given", "--from", models["mask"], "--batch", 1)
    words = (*words, "--output", tmp_path / "a.jsonl", "--masks", tmp_path / "m")
    assert command(*words).exit_code == 0
    undisturbed = files(tmp_path)
    assert len({row["mask"] for row in lines(tmp_path / "a.jsonl")}) == 5
    interrupt(tmp_path, 2)
    for mask in list((tmp_path / "m").iterdir()):
        if mask.name not in ("a.png", "a-2.png"):
            mask.unlink()
    (tmp_path / "m" / f".b.png.{2**22 + 1}.partial").write_bytes(b"half")
    assert command(*words).exit_code == 0
    assert files(tmp_path) == undisturbed
    result = command(*words, "--masks", tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere") in result.stderr


def test_contact_sheet_shows_earlier_rows_when_a_killed_run_is_continued(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    words = ("client", "infer", photos, "--from", models["colours"], "--output", tmp_path / "a.jsonl", "--batch", 1)
    command(*words)
    interrupt(tmp_path, 2)
    assert command(*words, "--gallery", tmp_path / "s.html").exit_code == 0
    page = (tmp_path / "s.html").read_text()
    assert page.count("<figure") == page.count("data:image/jpeg;base64,") == 4
    assert re.search(r"\b4 \w+ · ", page)


def test_rows_are_kept_when_a_file_cannot_be_written(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """The job ends with an error, as it does when the server fails."""
    (tmp_path / "m").mkdir()
    (tmp_path / "given" / "z").mkdir(parents=True)
    for name in ("a.png", "b.png", "z/c.png"):
        shutil.copy(pictures / "000000.png", tmp_path / "given" / name)
    (tmp_path / "m" / "z").write_text("a file where a folder is needed")
    words = ("client", "infer", tmp_path / "given", "--from", models["mask"], "--masks", tmp_path / "m", "--batch", 1)
    words = (*words, "--output", tmp_path / "a.jsonl")
    result = command(*words)
    assert result.exit_code == 2
    assert f"2 rows are kept in {tmp_path / 'a.jsonl.job'}; " in result.stderr
    (tmp_path / "m" / "z").unlink()
    assert command(*words).exit_code == 0
    assert len(lines(tmp_path / "a.jsonl")) == 3


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "by Ctrl-C"), (signal.SIGTERM, "by SIGTERM")])
def test_signal_ends_a_run_that_can_be_continued(
    exported_once: Path, pictures: Path, tmp_path: Path, number: int, reason: str
) -> None:
    graph = exported_once / "pets" / "1" / "model.onnx"
    words = ["infer", pictures, "--from", graph, "--output", tmp_path / "a.jsonl", "--batch", 1]
    handles_signal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = [sys.executable, "-c", f"{handles_signal}from client.cli import app; app()", *map(str, words)]
    running = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    job = tmp_path / "a.jsonl.job"
    while running.poll() is None and not has_row(tmp_path / "a.jsonl"):
        time.sleep(0.001)
    running.send_signal(number)
    stderr = running.communicate(timeout=60)[1]
    if (tmp_path / "a.jsonl").exists():
        pytest.skip("it was done before it could be stopped")
    assert running.returncode == 130, stderr
    assert f"rows are kept in {job}; " in stderr
    assert stderr.endswith(f"error: stopped {reason}\n")
    assert kept(tmp_path / "a.jsonl")


def test_csv_has_flat_columns_for_every_task(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    expected = {
        "colours": "label,probability,label_2,probability_2,label_3,probability_3",
        "tags": "labels,probability_old,probability_new,probability_rare",
        "vector": "embedding",
        "mask": "width,height,label,share",
    }
    for model, columns in expected.items():
        output = tmp_path / f"{model}.csv"
        command("client", "infer", pictures, "--from", models[model], "--output", output)
        with output.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        assert ",".join(header) == f"path,error,{columns}"
        assert len(rows) == COUNT
        broken = next(row for row in rows if row[1])
        assert broken[1]
        assert not any(broken[2:])


def test_csv_has_the_values_of_json_lines(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "cat.jpg", tmp_path / 'a "b", c\nд.jpg')
    words = ("client", "infer", photos, tmp_path, "--from", models["all"], *outputs(tmp_path, ".jsonl", ".csv"))
    assert command(*words).exit_code == 0
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, row_fields in zip(rows, lines(tmp_path / "a.jsonl"), strict=True):
        assert row["path"] == row_fields["path"]
        assert float(row["colour.probability_2"]) == row_fields["colour"]["top"][1]["probability"]
        assert row["tags.labels"] == "|".join(row_fields["tags"]["labels"])
        for entry in row_fields["tags"]["top"]:
            assert float(row[f"tags.probability_{entry['label']}"]) == entry["probability"]
        assert json.loads(row["vector.embedding"]) == row_fields["vector"]["embedding"]


@pytest.mark.drill
def test_output_is_the_undisturbed_one_when_client_server_and_network_fail(
    tiny_repository: Path, tmp_path: Path
) -> None:
    found = drill(tmp_path / "drill", tiny_repository, "pets", pictures=900, kills=2).record
    assert found["failures"] == []
    assert found["faults"] == {"client": 1, "server": 1, "network": 1}
    log = (tmp_path / "drill" / "disturbed" / "answers.log").read_text()
    assert "answers.jsonl.job; " in log, "a client gave up without the server"
    assert "Traceback" not in log
