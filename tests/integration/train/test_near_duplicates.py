"""Copies of an image in two parts, in another format or size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.train_configs import tiny_config
from train.data.splits import read_splits
from train.tasks import training_task

CopyDigits = Callable[..., Path]


def read(path: Path) -> None:
    config = tiny_config(data={"path": str(path), "val_ratio": 0.2, "test_ratio": 0.2})
    read_splits(config.data, training_task(config), seed=0)


@pytest.fixture
def parts(copy_digits: CopyDigits, tmp_path: Path) -> Path:
    """Other digits in train than in val and test."""
    for start, part in enumerate(("train", "val", "test")):
        copy_digits(tmp_path / "data" / part, labels="0123456789", count=60, start=60 * start)
    return tmp_path / "data"


def test_nothing_is_reported_when_images_only_look_alike(parts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read(parts)
    assert "warning" not in capfd.readouterr().err


def test_copies_are_listed_when_another_part_has_them_in_other_bytes(
    parts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second, third = sorted((parts / "train" / "7").iterdir())[:3]
    with Image.open(first) as image:
        image.save(parts / "val" / "7" / "again.jpg", quality=80)
    with Image.open(second) as image:
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(
            parts / "test" / "7" / "larger.png"
        )
    with Image.open(third) as image:  # flat images are no copies of each other
        for part, grey in (("train", 3), ("val", 4)):
            Image.new("L", image.size, grey).save(parts / part / "7" / "flat.png")
    read(parts)
    output = capfd.readouterr().err
    assert "an image of another part (2):" in output
    assert f"{parts / 'val' / '7' / 'again.jpg'} in val shows {first} in train" in output
    assert f"{parts / 'test' / '7' / 'larger.png'} in test shows {second} in train" in output
