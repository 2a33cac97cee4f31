"""`client infer` for every task: the answers, and every format of output files."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.outputs.drawings import with_unique_paths
from client.picture import Picture
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.pictures import turned
from tritonkit.images.preprocess import decode_image, load_file
from tritonkit.runtimes import open_artifact
from tritonkit.tasks import Answer, task_of


@pytest.fixture
def pictures(photos: Path, tmp_path: Path) -> Path:
    """Two photographs, a turned photograph in a subfolder, and a file that is not an image."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    shutil.copy(photos / "rocket.jpg", folder / "a.jpg")
    shutil.copy(photos / "coffee_cup.jpg", folder / "c.jpg")
    Image.open(photos / "cat.jpg").save(folder / "below" / "turned.jpg", exif=turned(), quality=95)
    (folder / "b.png").write_text("not a picture")
    return folder


READABLE = ("a.jpg", "below/turned.jpg", "c.jpg")


def expected(checkpoint: Path, picture: Path) -> Answer:
    """Return the answer of the model's task, for a batch of one image."""
    runner = opened_once(checkpoint)
    image, geometry = load_file(picture, runner.spec.preprocess)
    outputs = {name: array[0] for name, array in runner.infer(image[None]).items()}
    return task_of(runner.spec).answer(outputs, geometry, top=3)


opened_once = functools.cache(open_artifact)


def written(folder: Path, name: str) -> Image.Image:
    return Image.open((folder / name).with_suffix(".png"))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def numbers(value: Any) -> list[float]:
    """All numbers of a JSON value, in order."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("model", ["colours", "tags", "vector", "all", "soft"])
def test_json_lines_have_the_task_s_answers_in_order(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path, model: str
) -> None:
    output = tmp_path / "answers.jsonl"
    result = command("client", "infer", pictures, "--from", models[model], "--output", output, "--json")
    assert result.exit_code == 1, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert json.loads(result.stdout) == {"answered": 3, "failed": 1, "rows": rows}
    assert [Path(row.pop("path")).name for row in rows] == ["a.jpg", "b.png", "turned.jpg", "c.jpg"]
    assert rows.pop(1)["error"]
    for name, row in zip(READABLE, rows, strict=True):
        fields = expected(models[model], pictures / name).fields
        assert row.keys() == fields.keys()
        # Kernels sum a batch in another order than a single image.
        assert numbers(row) == pytest.approx(numbers(fields), abs=1e-3)


@pytest.mark.parametrize(("model", "size"), [("vector", 8), ("all", 8)])
def test_numpy_file_holds_the_embeddings_of_readable_pictures(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path, model: str, size: int
) -> None:
    output = tmp_path / "vectors.npy"
    command("client", "infer", pictures, "--from", models[model], "--output", output, "--batch", 2)
    vectors = np.load(output, allow_pickle=False)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, size))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    names = json.loads((tmp_path / "vectors.paths.json").read_text())
    assert names == [str(pictures / name) for name in READABLE]
    for name, vector in zip(READABLE, vectors, strict=True):
        assert vector == pytest.approx(expected(models[model], pictures / name).embedding, abs=1e-5)


@pytest.mark.parametrize("model", ["colours", "tags", "vector", "all", "soft"])
def test_parquet_file_holds_what_json_lines_hold(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path, model: str
) -> None:
    lines, columns = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    command("client", "infer", pictures, "--from", models[model], "--output", lines, "--output", columns)
    table = pyarrow.parquet.read_table(columns)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    for fields, row in zip(rows, table.to_pylist(), strict=True):
        present = {key: value for key, value in row.items() if value is not None}
        assert present.keys() == fields.keys()
        assert numbers(present) == pytest.approx(numbers(fields), abs=1e-6)
    assert table.schema.names[:2] == ["path", "error"]
    if model == "vector":
        assert str(table.schema.field("embedding").type) == "list<element: float>"


def test_parquet_columns_have_their_types_when_the_first_rows_are_empty(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    options = ("--from", models["tags"], "--threshold", 0.999999, "--output", tmp_path / "a.parquet")
    assert command("client", "infer", photos, *options).exit_code == 0
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column("labels").to_pylist() == [[], [], [], []]
    assert str(table.schema.field("labels").type) == "list<element: string>"


def test_masks_hold_class_numbers_at_the_picture_s_own_size(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    result = command("client", "infer", pictures, "--from", models["three"], "--masks", masks, "--json")
    rows = {Path(row["path"]).name: row for row in json.loads(result.stdout)["rows"]}
    for name in READABLE:
        mask = written(masks, name)
        upright = decode_image((pictures / name).read_bytes())
        truth = expected(models["three"], pictures / name).mask
        assert truth is not None
        assert (mask.mode, mask.size) == ("P", upright.size)
        assert mask.getpalette()[:3] == [0, 0, 0]
        assert set(np.unique(truth)) == {0, 1, 2}
        assert (np.asarray(mask) == truth).mean() > 0.999
        assert rows[Path(name).name]["mask"] == str((masks / name).with_suffix(".png"))
    assert written(masks, "below/turned.jpg").size == (300, 451)
    assert "mask" not in rows["b.png"]
    assert len(list(masks.rglob("*"))) == 4, "three masks and a folder, nothing left over"


def test_overlays_colour_the_regions_and_leave_the_rest(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    folders = ("--masks", tmp_path / "m", "--overlays", tmp_path / "o")
    command("client", "infer", pictures, "--from", models["three"], *folders)
    for name in READABLE:
        mask = written(tmp_path / "m", name)
        inside = np.asarray(mask) > 0
        picture = pixels(decode_image((pictures / name).read_bytes()))
        overlay, colours = pixels(written(tmp_path / "o", name)), pixels(mask.convert("RGB"))
        assert (overlay[~inside] == picture[~inside]).all()
        assert np.abs(overlay - (picture + colours) / 2)[inside].max() <= 1


@pytest.mark.parametrize("background", [None, "#00ff00", "picture"])
def test_cutouts_replace_the_background_and_nothing_else(
    command: Command, models: dict[str, Path], pictures: Path, photos: Path, tmp_path: Path, background: str | None
) -> None:
    inputs = str(photos / "motorcycle.jpg") if background == "picture" else background
    folders = ("--masks", tmp_path / "m", "--cutouts", tmp_path / "c")
    chosen = ("--background", inputs) if inputs else ()
    result = command("client", "infer", pictures, "--from", models["soft"], *folders, *chosen)
    assert result.exit_code == 1, result.stderr
    for name in READABLE:
        inside = np.asarray(written(tmp_path / "m", name)) > 0
        cutout = pixels(written(tmp_path / "c", name))
        assert inside.any()
        assert (cutout[inside] == pixels(decode_image((pictures / name).read_bytes()))[inside]).all()
        behind = cutout[~inside]
        if background == "picture":
            assert behind.std() > 20
            assert behind.mean() == pytest.approx(pixels(Image.open(photos / "motorcycle.jpg")).mean(), abs=15)
        else:
            assert (behind == ((0, 255, 0) if background else (255, 255, 255))).all()


def test_threshold_replaces_the_model_s_own_for_labels(command: Command, models: dict[str, Path], photos: Path) -> None:
    for threshold, count in [(0.000001, 3), (0.999999, 0)]:
        options = ("--from", models["tags"], "--threshold", threshold, "--json")
        rows = json.loads(command("client", "infer", photos, *options).stdout)["rows"]
        assert [len(row["labels"]) for row in rows] == [count] * 4


def test_threshold_reaches_the_heads_that_have_one(command: Command, models: dict[str, Path], photos: Path) -> None:
    options = ("--from", models["all"], "--threshold", 0.000001, "--json")
    rows = json.loads(command("client", "infer", photos, *options).stdout)["rows"]
    assert all(len(row["tags"]["labels"]) == 3 and "top" in row["colour"] for row in rows)


def test_threshold_makes_the_mask_from_the_probability(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    runner = opened_once(models["soft"])
    image, geometry = load_file(photos / "cat.jpg", runner.spec.preprocess)
    outputs = runner.infer(image[None])
    middle = round(float(np.median(outputs["probability"])), 4)
    for threshold, mask in [(middle, outputs["probability"][0] >= middle), (0.5, outputs["mask"][0])]:
        options = ("--from", models["soft"], "--threshold", threshold, "--masks", tmp_path / "m")
        assert command("client", "infer", photos / "cat.jpg", *options).exit_code == 0
        truth = geometry.mask_to_source(mask.astype(np.uint8))
        assert 0 < truth.mean() < 1
        assert (np.asarray(written(tmp_path / "m", "cat.jpg")) == truth).mean() > 0.999


@pytest.mark.parametrize(
    ("model", "caption"),
    [
        ("colours", r"(red|green|blue) 0\.\d\d"),
        ("vector", r"nearest: (a|c|turned)\.jpg \(\d\.\d\d\)"),
        ("all", r"colour: \w+ 0\.\d\d · tags: .+ · vector: nearest: \S+\.jpg \(.+\)"),
        ("three", r"\w+ \d+%"),
    ],
)
def test_contact_sheet_has_the_captions_of_the_task(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path, model: str, caption: str
) -> None:
    sheet = tmp_path / "sheet.html"
    command("client", "infer", pictures, "--from", models[model], "--gallery", sheet)
    page = sheet.read_text()
    assert re.search(r"\b4 \w+, 1 failed · ", page)
    captions = re.findall(r"<strong>(.*?)</strong>", page)
    assert [bool(re.fullmatch(caption, text)) for text in captions] == [True, False, True, True], captions
    assert captions[1]


def test_contact_sheet_shows_the_overlay_when_the_model_makes_masks(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    command("client", "infer", photos / "cat.jpg", "--from", models["three"], "--gallery", tmp_path / "s.html")
    encoded = re.findall(r"data:image/jpeg;base64,([^\"]+)", (tmp_path / "s.html").read_text())
    output = Image.open(io.BytesIO(base64.b64decode(encoded[0])))
    plain = pixels(Image.open(photos / "cat.jpg").resize(output.size))
    mask = expected(models["three"], photos / "cat.jpg").mask
    assert mask is not None
    inside = np.asarray(Image.fromarray(mask).resize(output.size, Image.Resampling.NEAREST)) > 0
    changed = np.abs(pixels(output) - plain).mean(axis=2)
    assert changed[inside].mean() > 3 * changed[~inside].mean()


def test_pictures_of_one_name_get_masks_of_their_own(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    names = ("x/cat.jpg", "x/cat.png", "x/cat-2.jpg", "y/cat.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(photos / "cat.jpg").save(tmp_path / name)
    masks = tmp_path / "masks"
    inputs = (tmp_path / "x", f"{tmp_path}/y/*.jpg")
    result = command("client", "infer", *inputs, "--from", models["mask"], "--masks", masks, "--json")
    rows = json.loads(result.stdout)["rows"]
    masks_by_image = {Path(row["path"]).relative_to(tmp_path): Path(row["mask"]) for row in rows}
    assert {str(picture): str(mask.relative_to(masks)) for picture, mask in masks_by_image.items()} == {
        "x/cat-2.jpg": "x/cat-2.png",
        "x/cat.jpg": "x/cat.png",
        "x/cat.png": "x/cat-3.png",
        "y/cat.jpg": "y/cat.png",
    }
    assert all(mask.is_file() for mask in masks_by_image.values())


def test_nothing_is_drawn_outside_the_folder_when_paths_go_up(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here/a/cat.jpg", "there/cat.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(photos / "cat.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    options = ("--from", models["mask"], "--masks", "m")
    assert command("client", "infer", "*/../../there/cat.jpg", "a", *options).exit_code == 0
    drawn = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    assert drawn == {"here/m/here/a/cat.png", "here/m/there/cat.png"}


@pytest.mark.parametrize(
    ("model", "arguments", "code", "expected_text"),
    [
        ("colours", ["--output", "a.npy"], "output.no_embeddings", "a.npy: "),
        ("colours", ["--masks", "m"], "output.no_masks", "--masks: "),
        ("vector", ["--cutouts", "m", "--overlays", "o"], "output.no_masks", "--overlays, --cutouts: "),
        ("colours", ["--threshold", "0.3"], "", "--threshold 0.3: multiclass"),
        ("mask", ["--threshold", "0.3"], "", "builder export --probability"),
        ("three", ["--threshold", "0.3"], "", "--threshold 0.3: segmentation with 3 labels"),
        ("tags", ["--threshold", "1"], "option.threshold_range", "--threshold 1.0: "),
        ("tags", ["--threshold", "nan"], "option.threshold_range", "--threshold nan: "),
        ("colours", ["--output", "a.txt"], "output.format", ".jsonl, .csv, .parquet, .npy"),
        ("vector", ["--output", "a.npy", "--output", "a.npy"], "output.twice", "a.npy: "),
        ("mask", ["--masks", "m", "--overlays", "m"], "drawing.nested_folders", "error: m: "),
        ("mask", ["--masks", "m", "--overlays", "m/o"], "drawing.nested_folders", "error: m/o: "),
        ("mask", ["--background", "red"], "option.background_unused", "--cutouts"),
        ("mask", ["--cutouts", "c", "--background", "nocolour"], "background.unknown", "nocolour: "),
        ("mask", ["--cutouts", "c", "--background", "#00ff0080"], "background.transparent", "#00ff0080: "),
        ("mask", ["--cutouts", "c", "--background", "pictures/b.png"], "background.unreadable", "pictures/b.png: "),
        ("mask", ["--masks", "pictures"], "drawing.input_folder", "pictures: "),
        ("mask", ["--masks", "pictures/b.png/m"], "", "pictures/b.png/m"),
    ],
)
def test_wrong_combination_is_refused_in_one_line_before_any_work(
    command: Command,
    models: dict[str, Path],
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    arguments: list[str],
    code: str,
    expected_text: str,
) -> None:
    monkeypatch.chdir(pictures.parent)
    before = set(pictures.parent.rglob("*"))
    result = command("client", "infer", "pictures", "--from", models[model], *arguments, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert not code or error_codes(result) == {code}
    assert expected_text in result.stderr
    assert set(pictures.parent.rglob("*")) == before


@pytest.mark.parametrize("folder", ["pictures", "link"])
def test_pictures_are_not_drawn_over_when_a_glob_names_them(
    command: Command, models: dict[str, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(pictures.parent)
    Path("link").symlink_to(pictures)
    before = {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    result = command("client", "infer", "pictures/*.jpg", "--from", models["mask"], "--masks", folder, "--json")
    assert result.exit_code == 2, result.stdout
    assert error_codes(result) == {"drawing.input_folder"}
    assert f"{folder}: " in result.stderr
    assert {path: path.read_bytes() for path in pictures.rglob("*") if path.is_file()} == before


def test_equal_relative_paths_get_numbers() -> None:
    names = ["a.jpg", "a.png", "a-2.png", "a.gif", "b.png"]
    inputs = [Picture(f"{number}", PurePath(name), bytes) for number, name in enumerate(names)]
    paths = [str(picture.relative_path) for picture in with_unique_paths(inputs)]
    assert paths == ["a.png", "a-2.png", "a-2-2.png", "a-3.png", "b.png"]


def test_missing_pyarrow_is_named_with_the_extra_that_brings_it(
    command: Command, models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    words = ("client", "infer", photos, "--from", models["colours"], "--output", tmp_path / "a.parquet")
    result = command(*words, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"install.missing_module"}
    assert "pip install 'tritonkit[parquet]'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_failure_half_way_leaves_no_half_written_file(
    command: Command, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "below").write_text("a file where a folder is needed")
    outputs = [word for name in ("a.jsonl", "a.parquet") for word in ("--output", tmp_path / name)]
    options = ("--masks", tmp_path / "m", "--gallery", tmp_path / "a.html", "--batch", 1, "--in-flight", 1)
    result = command("client", "infer", pictures, "--from", models["mask"], *outputs, *options)
    assert result.exit_code == 2
    assert "below" in result.stderr
    leftovers = {path.name for path in tmp_path.iterdir()} - {"pictures", "m"}
    assert leftovers == {"a.jsonl.job"}
    assert written(tmp_path / "m", "a.jpg").size == (640, 427)


def test_killed_client_leaves_only_whole_files(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    folder, masks = tmp_path / "pictures", tmp_path / "masks"
    folder.mkdir()
    for number in range(300):
        os.link(photos / "motorcycle.jpg", folder / f"{number}.jpg")
    command = [sys.executable, "-c", "from client.cli import app; app()", "infer", str(folder), "--masks", str(masks)]
    outputs = ["--output", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "a.parquet"), "--batch", "4"]
    process = subprocess.Popen([*command, *outputs, "--from", str(models["mask"])], start_new_session=True)
    while process.poll() is None and len(list(masks.glob("*.png"))) < 20:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert not {"a.jsonl", "a.parquet"} & {path.name for path in tmp_path.iterdir()}
    undisturbed = list(masks.glob("[0-9]*.png"))
    assert 20 <= len(undisturbed) < 300
    assert {Image.open(path).convert("RGB").size for path in undisturbed} == {(741, 500)}


def test_table_says_how_many_rows_it_does_not_show(
    command: Command, models: dict[str, Path], digits: Path, tmp_path: Path
) -> None:
    chosen = sorted(digits.rglob("*.png"))[:103]
    result = command("client", "infer", *chosen, "--from", models["colours"])
    assert "… and 3 more; --output FILE.jsonl" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("103 answered, 0 failed")
    all_rows = command("client", "infer", *chosen, "--from", models["colours"], "--json").stdout
    assert len(json.loads(all_rows)["rows"]) == 103
