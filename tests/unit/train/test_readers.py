"""Readers of labelled images, and mask files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config.sections import DataConfig, HeadConfig
from train.tasks.builtin import SegmentationTraining
from tritonkit.errors import ConfigError
from tritonkit.evaluation.samples.mask_values import MaskMapping
from tritonkit.evaluation.samples.masks import MaskError, class_number_mapping, class_numbers, two_class_mapping
from tritonkit.images.preprocess import Preprocess
from tritonkit.plugins import load_plugins
from tritonkit.spec import TaskSpec


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
