"""`client infer` on a real Triton: the checkpoint's answers, and one row for every picture whatever it is."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


def rows(result: Result) -> dict[str, dict[str, object]]:
    return {Path(row["path"]).name: row for row in json.loads(result.stdout)["rows"]}


@pytest.mark.parametrize("family", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_served_answers_equal_the_checkpoint_s(
    command: Command, served: str, families: dict[str, Path], photos: Path, family: str
) -> None:
    through_triton = rows(command("client", "infer", photos, "--model", family, "--url", served, "--top", 10, "--json"))
    from_checkpoint = rows(command("client", "infer", photos, "--from", families[family], "--top", 10, "--json"))
    assert through_triton.keys() == from_checkpoint.keys()
    for name, expected in from_checkpoint.items():
        assert through_triton[name]["label"] == expected["label"]
        assert probabilities(through_triton[name]) == pytest.approx(probabilities(expected), abs=1e-4)


def probabilities(row: dict[str, object]) -> dict[str, float]:
    assert isinstance(row["top"], list)
    return {entry["label"]: entry["probability"] for entry in row["top"]}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_photographs_get_right_answers_from_imported_weights(
    command: Command, served: str, served_http: str, photos: Path, protocol: str
) -> None:
    url = served if protocol == "grpc" else served_http
    answered = rows(command("client", "infer", photos, "--model", "imagenet", "--url", url, "--json"))
    assert answered["cat.jpg"]["label"] in ("tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat")
    assert answered["coffee_cup.jpg"]["label"] == "espresso"


def test_every_picture_gets_a_row_when_some_cannot_be_read(
    command: Command, served: str, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    cat = Image.open(photos / "cat.jpg")
    shutil.copy(photos / "cat.jpg", folder / "катя ñ 猫.jpg")
    cat.convert("CMYK").save(folder / "below" / "cmyk.jpg")
    cat.convert("P").save(folder / "palette.png")
    cat.save(folder / "animated.gif", save_all=True, append_images=[cat.rotate(90), cat.rotate(180)])
    cat.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif_orientation(6), quality=95)
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((photos / "cat.jpg").read_bytes()[:4000])
    (folder / "page.png").write_text("<html></html>")
    (folder / "notes.txt").write_text("not searched")
    output, sheet = tmp_path / "answers.jsonl", tmp_path / "sheet.html"
    result = command(
        "client",
        "infer",
        folder,
        "--model",
        "imagenet",
        "--url",
        served,
        "--output",
        output,
        "--gallery",
        sheet,
        "--json",
    )
    assert result.exit_code == 1
    answered = rows(result)
    unreadable = {name: str(row["error"]) for name, row in answered.items() if "error" in row}
    assert unreadable.keys() == {"empty.jpg", "cut.jpg", "page.png"}
    assert "empty" in unreadable["empty.jpg"]
    assert "cut short" in unreadable["cut.jpg"]
    assert "not a picture" in unreadable["page.png"]
    assert "notes.txt" not in answered
    cats = {"tabby", "tiger cat", "Egyptian cat", "lynx"}
    for name in ("катя ñ 猫.jpg", "cmyk.jpg", "palette.png", "animated.gif", "turned.jpg"):
        assert answered[name]["label"] in cats, name
    assert [json.loads(line) for line in output.read_text().splitlines()] == json.loads(result.stdout)["rows"]
    page = sheet.read_text()
    assert re.search(r"imagenet, version 1 · \d\d \w+ \d{4}, \d\d:\d\d UTC", page)
    assert page.count("<figure") == len(answered)
    assert page.count("data:image/jpeg;base64,") == len(answered) - 3
    assert "катя ñ 猫.jpg" in page


def exif_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    return exif.tobytes()


def test_file_name_that_is_not_unicode_is_written_escaped(
    command: Command, families: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "cat.jpg", os.fsencode(tmp_path) + b"/\xff.jpg")
    result = command("client", "infer", tmp_path, "--from", families["resnet18"], "--output", tmp_path / "o.jsonl")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text(encoding="utf-8"))["path"].endswith("\\udcff.jpg")


def test_names_in_a_contact_sheet_cannot_run_scripts(
    command: Command, families: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "cat.jpg", tmp_path / "<script>alert(1)<b>.jpg".replace("/", ""))
    sheet = tmp_path / "s.html"
    command("client", "infer", tmp_path, "--from", families["resnet18"], "--gallery", sheet)
    assert "<script>" not in sheet.read_text()
    assert "&lt;script&gt;" in sheet.read_text()


def test_globs_and_files_are_each_answered_once(command: Command, families: dict[str, Path], photos: Path) -> None:
    result = command(
        "client", "infer", photos / "cat.jpg", f"{photos}/c*.jpg", "--from", families["resnet18"], "--json"
    )
    assert list(rows(result)) == ["cat.jpg", "coffee_cup.jpg"]


def test_everything_that_stands_for_nothing_is_named_at_once(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command("client", "infer", tmp_path / "empty", tmp_path / "*.jpg", tmp_path / "no.png")
    assert result.exit_code == 2
    assert "holds no file that ends in" in result.stderr
    assert "the pattern matches nothing" in result.stderr
    assert "no such file or folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "127.0.0.1:9", "--model", "m"], 3, "no Triton answers at 127.0.0.1:9"),
        (["--url", "http://127.0.0.1:9", "--model", "m"], 3, "no Triton answers at http://127.0.0.1:9"),
        (["--url", "ftp://x:1", "--model", "m"], 2, "expected HOST:PORT"),
        (["--from", "nowhere.onnx"], 2, "nowhere.onnx: no such file"),
        (["--from", "x.onnx", "--model", "m"], 2, "--model and --version are for a server"),
        (["--from", "x.keras"], 2, "x.keras: cannot run"),
        (["--from", "x.onnx", "--gallery", "."], 2, "is a folder"),
        (["--from", "x.onnx", "--output", "/etc/passwd/o.jsonl"], 2, "cannot be written"),
        (["x" * 300], 2, "no such file or folder"),
    ],
)
def test_wrong_use_gets_one_error_and_its_exit_code(
    command: Command, photos: Path, arguments: list[str], code: int, said: str
) -> None:
    result = command("client", "infer", photos, *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_model_is_told_with_those_there_are(command: Command, served: str, photos: Path) -> None:
    result = command("client", "infer", photos, "--url", served, "--model", "dogs")
    assert result.exit_code == 2
    assert (
        "has no model 'dogs'; ready models: efficientnet_b0, imagenet, resnet18, vit_tiny_patch16_224" in result.stderr
    )
    assert "choose one with --model" in command("client", "infer", photos, "--url", served).stderr


def test_nothing_is_written_when_the_version_is_not_served(
    command: Command, served: str, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    result = command(
        "client", "infer", photos, "--url", served, "--model", "imagenet", "--version", "7", "--output", output
    )
    assert result.exit_code == 2
    assert "has no model 'imagenet' version 7; it serves" in result.stderr
    assert not output.exists()


def test_models_and_show_tell_what_is_served(command: Command, served: str) -> None:
    listed = json.loads(command("client", "models", "--url", served, "--json").stdout)
    assert {(row["name"], row["state"]) for row in listed} >= {("imagenet", "READY"), ("resnet18", "READY")}
    shown = json.loads(command("client", "show", "imagenet", "--url", served, "--json").stdout)
    assert shown["labels"][0] == "tench"
    assert shown["lineage"]["parent"] is None
