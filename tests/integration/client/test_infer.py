"""`client infer` on a real Triton: the checkpoint's answers, and one row for every image."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tests.errors import error_codes
from tests.fixture_types import Command
from tests.pictures import turned


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
    cat.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=turned(), quality=95)
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
    assert len(set(unreadable.values())) == 3, "each fault has its own message"
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


def test_all_arguments_without_images_are_named_together(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty", tmp_path / "*.jpg", tmp_path / "no.png"]
    result = command("client", "infer", *arguments, "--json")
    assert result.exit_code == 2
    problems = json.loads(result.stdout)["error"]["problems"]
    assert [problem["code"] for problem in problems] == ["source.empty_folder", "source.no_match", "source.missing"]
    assert all(problem["message"].startswith(f"{path}: ") for problem, path in zip(problems, arguments, strict=True))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "expected_text"),
    [
        (["--url", "127.0.0.1:9", "--model", "m"], 3, " 127.0.0.1:9"),
        (["--url", "http://127.0.0.1:9", "--model", "m"], 3, " http://127.0.0.1:9"),
        (["--url", "ftp://x:1", "--model", "m"], 2, "HOST:PORT"),
        (["--from", "nowhere.onnx"], 2, "nowhere.onnx: "),
        (["--from", "x.onnx", "--model", "m"], 2, "option.from_model"),
        (["--from", "x.keras"], 2, "x.keras"),
        (["--from", "x.onnx", "--gallery", "."], 2, "error: .: "),
        (["--from", "x.onnx", "--output", "/etc/passwd/o.jsonl"], 2, "/etc/passwd/o.jsonl: "),
        (["x" * 300], 2, "source.missing"),
    ],
)
def test_wrong_use_gets_one_error_and_its_exit_code(
    command: Command, photos: Path, arguments: list[str], exit_code: int, expected_text: str
) -> None:
    result = command("client", "infer", photos, *arguments, "--json")
    assert result.exit_code == exit_code
    assert expected_text in result.stderr or expected_text in error_codes(result), result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_model_is_reported_with_the_served_models(command: Command, served: str, photos: Path) -> None:
    result = command("client", "infer", photos, "--url", served, "--model", "dogs", "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"server.unknown_model"}
    assert "'dogs'" in result.stderr
    assert "efficientnet_b0, imagenet, resnet18, vit_tiny_patch16_224" in result.stderr
    assert error_codes(command("client", "infer", photos, "--url", served, "--json")) == {"server.which_model"}


def test_nothing_is_written_when_the_version_is_not_served(
    command: Command, served: str, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    result = command(
        "client", "infer", photos, "--url", served, "--model", "imagenet", "--version", "7", "--output", output
    )
    assert result.exit_code == 2
    assert "'imagenet' version 7" in result.stderr
    assert not output.exists()


def test_models_and_show_print_the_served_models(command: Command, served: str) -> None:
    listed = json.loads(command("client", "models", "--url", served, "--json").stdout)
    assert {(row["name"], row["state"]) for row in listed} >= {("imagenet", "READY"), ("resnet18", "READY")}
    description = json.loads(command("client", "show", "imagenet", "--url", served, "--json").stdout)
    assert description["labels"][0] == "tench"
    assert description["lineage"]["parent"] is None
