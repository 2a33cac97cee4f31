"""Readers of labelled images, and mask files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config.sections import DataConfig, HeadConfig
from train.tasks.builtin import SegmentationTraining
from tritonkit.errors import ConfigError
from tritonkit.evaluation.readers import read_table
from tritonkit.evaluation.samples.mask_values import MaskMapping
from tritonkit.evaluation.samples.masks import MaskError, class_number_mapping, class_numbers, two_class_mapping
from tritonkit.evaluation.samples.sample import IMAGE, MASK
from tritonkit.images.preprocess import Preprocess
from tritonkit.plugins import load_plugins
from tritonkit.spec import TaskSpec

Table = Callable[..., Path]

READER = """
import json
from pathlib import Path
from tritonkit.plugins import register

@register("reader", "lines")
def lines(path):
    for line in Path(path).read_text().splitlines():
        picture, label = line.split("\\t")
        yield {"image_path": picture, "label": label}

def broken(path):
    raise RuntimeError("no such luck")

def careless(path):
    return [{"picture": "x"}]
"""


def rows(path: Path, reader: str | None = None, masks: Path | None = None) -> list[dict[str, object]]:
    table = read_table(path, reader, masks)
    assert not table.problems
    return [dict(row) for _, row in table.rows]


def names_in(folder: Path) -> list[dict[str, str]]:
    return [{"image_path": str(p.relative_to(folder)), "label": p.parent.name} for p in sorted(folder.rglob("*.png"))]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a plugin module in the working directory that registers a reader."""
    (tmp_path / "own_readers.py").write_text(READER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins(["own_readers"])
    return "own_readers"


def test_folder_gives_a_row_for_each_picture_when_it_has_class_folders(folder: Path) -> None:
    found = rows(folder)
    assert len(found) == 36
    assert found[0] == {IMAGE: folder / "0" / "0000.png", "label": "0"}
    assert {row["label"] for row in found} == {"0", "1", "7"}


def test_hidden_files_are_left_out_when_a_folder_is_read(folder: Path) -> None:
    (folder / "0" / "._0000.png").write_bytes(b"what macOS leaves behind")
    (folder / ".cache").mkdir()
    assert len(rows(folder)) == 36


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_table_gives_what_its_folder_gives_when_read(folder: Path, write_table: Table, name: str) -> None:
    assert rows(write_table(folder / name, names_in(folder))) == rows(folder)


def test_csv_is_read_when_it_has_a_byte_order_mark_and_spaces(folder: Path) -> None:
    (folder / "labels.csv").write_text("\ufeffimage_path, label\n0/0000.png, 0\n\n1/0500.png ,1\n", encoding="utf-8")
    assert [(row[IMAGE].name, row["label"]) for row in rows(folder / "labels.csv")] == [
        ("0000.png", "0"),
        ("0500.png", "1"),
    ]  # type: ignore[attr-defined]


def test_json_is_refused_by_entry_when_one_is_no_object(folder: Path) -> None:
    (folder / "labels.json").write_text(
        json.dumps([{"image_path": "0/0000.png", "label": 0}, "0/0001.png", {"label": 1}])
    )
    table = read_table(folder / "labels.json")
    assert len(table.rows) == 1
    assert [problem.code for problem in table.problems] == ["data.not_an_object", "data.invalid_path"]
    assert "(1):\n    entry 2" in str(table.problems[0])
    assert "(1):\n    entry 3: " in str(table.problems[1])


def test_masks_are_paired_by_name_when_their_extension_is_another(masked: Path) -> None:
    found = rows(masked / "images", masks=masked / "masks")
    assert len(found) == 12
    assert found[3] == {IMAGE: masked / "images" / "03.jpg", MASK: masked / "masks" / "03.png"}


def test_masks_are_paired_by_path_when_they_lie_in_folders(masked: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (masked / kind / "more").mkdir()
        (masked / kind / f"03.{suffix}").rename(masked / kind / "more" / f"00.{suffix}")
    found = rows(masked / "images", masks=masked / "masks")
    assert len(found) == 12
    assert {IMAGE: masked / "images" / "more" / "00.jpg", MASK: masked / "masks" / "more" / "00.png"} in found


@pytest.mark.parametrize("column", ["mask_path", "ink"])
def test_masks_are_found_from_the_table_when_their_paths_are_relative(
    masked: Path, write_table: Table, column: str
) -> None:
    pairs = [{"image_path": f"images/{n:02}.jpg", column: f"masks/{n:02}.png"} for n in range(12)]
    table = read_table(write_table(masked / "pairs.csv", pairs), mask_column=column)
    assert table.rows[3][1] == {IMAGE: masked / "images" / "03.jpg", column: masked / "masks" / "03.png"}


@pytest.mark.parametrize("reader", ["lines", "own_readers:lines"])
def test_own_reader_gives_rows_when_it_is_a_plugin(folder: Path, plugin: str, reader: str) -> None:
    listing = folder / "labels.lines"
    listing.write_text("".join(f"{row['image_path']}\t{row['label']}\n" for row in names_in(folder)))
    assert rows(listing, reader) == rows(folder)


@pytest.mark.parametrize(
    ("reader", "code", "expected"),
    [
        ("own_readers:broken", "data.reader_failed", "RuntimeError: no such luck"),
        ("own_readers:careless", "data.no_image_column", "picture"),
        ("own_readers:absent", "", "'own_readers' has no class or function 'absent'"),
        ("other_readers:lines", "", "'other_readers'"),
    ],
)
def test_own_reader_is_refused_with_its_reason_when_it_fails(
    folder: Path, plugin: str, reader: str, code: str, expected: str
) -> None:
    problem = read_table(folder, reader).problems[0]
    assert problem.code == code or not code
    assert expected in problem.message


def test_plugin_is_refused_with_its_own_error_when_it_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"'half_written' .*: ZeroDivisionError"):
        load_plugins(["half_written"])
    assert "half_written" not in sys.modules


@pytest.mark.parametrize(
    ("levels", "labels", "expected"),
    [
        ([0, 255], 2, [0, 1]),
        ([0, 1], 2, [0, 1]),
        ([0, 1, 255], 2, [0, 1, 255]),  # 255 is ignored if there is a 1
        ([0, 1, 2, 255], 3, [0, 1, 2, 255]),
    ],
)
def test_mask_gives_class_numbers_when_read(
    tmp_path: Path, levels: list[int], labels: int, expected: list[int]
) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([levels], np.uint8)).save(path)
    mapping = two_class_mapping([path])[0] if labels == 2 else class_number_mapping(labels)
    assert class_numbers(path, mapping).tolist() == [expected]


def meaning_in(tmp_path: Path, **masks: list[int]) -> list[list[int]]:
    """Read the first of these masks as part of a data set with all of them; empty if the set is ambiguous."""
    paths = [tmp_path / f"{name}.png" for name in masks]
    for path, levels in zip(paths, masks.values(), strict=True):
        Image.fromarray(np.array([levels], np.uint8)).save(path)
    task = SegmentationTraining(HeadConfig(task="segmentation"))
    preprocess, task_spec = (
        Preprocess(1, 3, fit="squash"),
        TaskSpec(task="segmentation", labels=("background", "foreground")),
    )
    task.prepare(paths)
    problems = task.validate_splits({"train": paths}, task_spec, minimum=1)
    if any(problem.code == "data.mask_values_ambiguous" for problem in problems):
        return []
    answer: list[list[int]] = task.target(paths[0], False, preprocess, task_spec).tolist()
    return answer


def test_255_means_the_same_in_all_masks_of_a_data_set(tmp_path: Path) -> None:
    """A mask with only 0 and 255 contains class numbers if another mask of the data set contains 0, 1 and 255."""
    assert meaning_in(tmp_path, void=[0, 0, 255]) == [[0, 0, 1]]
    assert meaning_in(tmp_path, void=[0, 0, 255], whole=[0, 1, 255]) == [[0, 0, 255]]
    # Half of the masks written by one program, half by another: 255 may be the same as 1.
    assert meaning_in(tmp_path, one=[0, 0, 255], other=[0, 0, 1]) == []


MAPPED: dict[str, tuple[dict[str, Any], str, list[Any], list[int]]] = {
    "a number": ({"background": 0, "nucleus": 2}, "L", [0, 2], [0, 1]),
    "numbers": ({"background": 0, "nucleus": [1, 2, 9]}, "L", [0, 1, 2, 9], [0, 1, 1, 1]),
    "the background is the first": ({"nucleus": 1, "background": 0}, "L", [0, 1], [0, 1]),
    "an order without a background": ({"b": 1, "a": 0}, "L", [0, 1], [1, 0]),
    "instances": ({"background": 0, "nucleus": "nonzero"}, "I;16", [0, 1, 300, 65535], [0, 1, 1, 1]),
    "a range": ({"background": "0-127", "nucleus": "128-255"}, "L", [0, 127, 128, 255], [0, 0, 1, 1]),
    "what is named goes before the rest": (
        {"ignore": 255, "background": 0, "nucleus": "nonzero", "edge": 7},
        "L",
        [0, 3, 7, 255],
        [0, 1, 2, 255],
    ),
    "colours": (
        {"background": [0, 0, 0], "red": [255, 0, 0], "ignore": [255, 255, 255]},
        "RGB",
        [(0, 0, 0), (255, 0, 0), (255, 255, 255)],
        [0, 1, 255],
    ),
    "several colours": (
        {"background": 0, "warm": [[255, 0, 0], [255, 255, 0]]},
        "RGB",
        [(0, 0, 0), (255, 0, 0), (255, 255, 0)],
        [0, 1, 1],
    ),
    "any colour": ({"background": 0, "thing": "nonzero"}, "RGB", [(0, 0, 0), (0, 0, 1), (9, 0, 0)], [0, 1, 1]),
    "a grey mask among coloured ones": ({"background": [0, 0, 0], "red": [255, 0, 0]}, "L", [0, 0], [0, 0]),
}


@pytest.mark.parametrize("kind", MAPPED)
def test_mask_values_give_classes_when_the_configuration_maps_them(tmp_path: Path, kind: str) -> None:
    values, mode, pixels, expected = MAPPED[kind]
    mask = Image.new(mode, (len(pixels), 1))
    mask.putdata(pixels)
    mask.save(tmp_path / "mask.png")
    config = DataConfig.model_validate({"path": ".", "mask_values": values})
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config
    mapping = MaskMapping(config.mask_values or {}, configured=True)
    assert class_numbers(tmp_path / "mask.png", mapping).tolist() == [expected]


def test_palette_gives_colours_when_the_configuration_names_colours(tmp_path: Path) -> None:
    """Palette indices depend on the program that wrote the file: here 0 is red and 1 is black."""
    mask = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    mask.putpalette([255, 0, 0, 0, 0, 0])
    mask.save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match=r"\[255, 0, 0\]") as caught:
        class_numbers(tmp_path / "mask.png", class_number_mapping(2))
    assert caught.value.code == "data.mask_palette"
    config = DataConfig.model_validate({"path": ".", "mask_values": {"background": [0, 0, 0], "red": [255, 0, 0]}})
    mapping = MaskMapping(config.mask_values or {}, configured=True)
    assert class_numbers(tmp_path / "mask.png", mapping).tolist() == [[1, 0]]


def test_jpeg_mask_is_cut_at_half_when_it_is_black_and_white(tmp_path: Path) -> None:
    levels = np.zeros((64, 64), np.uint8)
    levels[13:50, 11:47] = 255
    Image.fromarray(levels).save(tmp_path / "mask.jpg", quality=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "mask.jpg")))) > 2
    numbers = class_numbers(tmp_path / "mask.jpg", two_class_mapping([tmp_path / "mask.jpg"])[0])
    assert (numbers == levels // 255).mean() > 0.99
    Image.fromarray(levels // 3 + 40).save(tmp_path / "grey.jpg", quality=60)
    with pytest.raises(MaskError, match=r"1?[0-9]+%") as caught:
        class_numbers(tmp_path / "grey.jpg", two_class_mapping([tmp_path / "grey.jpg"])[0])
    assert caught.value.code == "data.mask_blurred"


def test_mask_gives_its_indices_when_it_has_a_palette(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    picture.save(tmp_path / "mask.png")
    assert class_numbers(tmp_path / "mask.png", class_number_mapping(3)).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("options", "blurred"), [({"quality": 50}, True), ({"lossless": True}, False)])
def test_class_numbers_are_not_read_from_a_mask_that_was_blurred(
    tmp_path: Path, options: dict[str, Any], blurred: bool
) -> None:
    numbers = np.random.default_rng(0).integers(0, 3, (32, 32), np.uint8)
    Image.fromarray(np.dstack([numbers] * 3)).save(tmp_path / "mask.webp", **options)
    if blurred:
        with pytest.raises(MaskError) as caught:
            class_numbers(tmp_path / "mask.webp", class_number_mapping(3))
        assert caught.value.code == "data.mask_lossy"
    else:
        assert (class_numbers(tmp_path / "mask.webp", class_number_mapping(3)) == numbers).all()
