"""Small data sets and finished runs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from train.config.loading import Config, load_config
from train.engine.fit import FitResult, fit
from tritonkit.golden import Golden, golden_of_checkpoint

CopyDigits = Callable[..., Path]
WriteConfig = Callable[..., Path]
WriteTable = Callable[..., Path]
ROUND = "0689"
MINED = {"name": "TripletMarginLoss", "margin": 0.1, "miner": "MultiSimilarityMiner"}
CASES: dict[str, dict[str, Any]] = {
    "multilabel": {"thresholds": {"odd": 0.4}, "loss": "bce"},
    "embedding": {"embedding_size": 16},
    "mined": {"task": "embedding", "embedding_size": 16, "loss": MINED, "per_class": 4},
    "segmentation": {
        "model": {
            "name": "Unet",
            "encoder": "tu-test_resnet",
            "arguments": {"encoder_depth": 4, "decoder_channels": [32, 16, 16, 8]},
        },
        "image": {"size": 64},
        "loss": ["dice", {"name": "cross_entropy", "weight": 0.5}],
        "batch_size": 4,
    },
    "heads": {"heads": {"digit": {"task": "multiclass"}, "round": {"task": "multiclass", "weight": 0.5}}},
}


def golden_of_run(checkpoint: Path) -> Golden:
    """The golden sample beside a checkpoint of a run."""
    golden = golden_of_checkpoint(checkpoint)
    assert golden is not None
    return golden


@pytest.fixture(scope="session")
def copy_digits(digits: Path) -> CopyDigits:
    """Copy `count` pictures of each label, from number `start` on, to `target/<label>/<picture>`."""

    def copy(target: Path, labels: str = "017", count: int = 12, start: int = 0) -> Path:
        for label in labels:
            (target / label).mkdir(parents=True)
            for picture in sorted((digits / label).iterdir())[start : start + count]:
                shutil.copy(picture, target / label)
        return target

    return copy


@pytest.fixture(scope="session")
def write_config() -> WriteConfig:
    """Write a configuration that trains in a second or two; `changes` replace whole top-level keys."""

    def write(path: Path, data: Path, /, **changes: object) -> Path:
        config = {
            "name": "tiny",
            "output": str(path.parent / "runs"),
            "data": {"path": str(data), "val_ratio": 0.2, "test_ratio": 0.2},
            "model": {"name": "test_resnet"},
            "image": {"size": 32, "fit": "squash"},
            "augment": {"flip": 0, "color": 0.1},
            "optimizer": {"lr": 0.005},
            "epochs": 1,
            "batch_size": 16,
            "workers": 0,
        }
        path.write_text(yaml.safe_dump({**config, **changes}))
        return path

    return write


@pytest.fixture(scope="session")
def write_table() -> WriteTable:
    """Write rows as a CSV or as a JSON list, by the path's extension."""

    def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
            return path
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def folder(copy_digits: CopyDigits, tmp_path: Path) -> Path:
    """Twelve pictures each of 0, 1 and 7."""
    return copy_digits(tmp_path / "data")


@pytest.fixture(scope="session")
def facts_about_digits(digits: Path) -> Callable[..., list[dict[str, str]]]:
    """Create rows of a table: image paths of all ten digits, with the digit, and properties of it as 0 or 1."""

    def rows(count: int, start: int = 0) -> list[dict[str, str]]:
        return [
            {
                "image_path": str(picture),
                "digit": digit,
                "round": str(int(digit in ROUND)),
                "odd": str(int(digit) % 2),
                "large": str(int(int(digit) > 4)),
            }
            for digit in "0123456789"
            for picture in sorted((digits / digit).iterdir())[start : start + count]
        ]

    return rows


@pytest.fixture(scope="session")
def make_masks(digits: Path) -> Callable[..., Path]:
    """Write bright digits on coloured noise as `target/images/*.jpg`, and masks of 0 and 255 as `target/masks/*.png`.

    With `classes`, masks contain class numbers below `classes` instead of 255.
    """

    def make(target: Path, count: int = 24, classes: int | None = None) -> Path:
        draw = np.random.default_rng(0)
        for folder in ("images", "masks"):
            (target / folder).mkdir(parents=True)
        for number in range(count):
            digit = Image.open(sorted((digits / str(number % 10)).iterdir())[number]).resize((48, 48))
            is_foreground = np.zeros((64, 64), bool)
            is_foreground[8:56, 8:56] = np.asarray(digit) > 128
            picture = draw.integers(0, 120, (64, 64, 3))
            picture[is_foreground] = (230, 220, 90)
            Image.fromarray(picture.astype(np.uint8)).save(target / "images" / f"{number:02}.jpg", quality=95)
            value = 255 if classes is None else 1 + number % (classes - 1)
            Image.fromarray((is_foreground * value).astype(np.uint8)).save(target / "masks" / f"{number:02}.png")
        return target

    return make


@pytest.fixture
def masked(make_masks: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with `images` and `masks`."""
    return make_masks(tmp_path / "masked", count=12)


@pytest.fixture(scope="session")
def figures() -> Callable[[Path], list[dict[str, float]]]:
    """The rows of a run's metrics.csv."""

    def read(run: Path) -> list[dict[str, float]]:
        with (run / "metrics.csv").open() as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]

    return read


@pytest.fixture(scope="session")
def trained_config(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """Sixty pictures each of 0, 1 and 7."""
    root = tmp_path_factory.mktemp("trained")
    data = copy_digits(root / "data", count=60)
    loss = {"name": "cross_entropy", "label_smoothing": 0.05}
    return load_config(write_config(root / "config.yaml", data, epochs=8, workers=1, loss=loss))


@pytest.fixture(scope="session")
def trained(trained_config: Config) -> FitResult:
    """A finished run; tests must not change it."""
    return fit(trained_config)


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def run(
    case: str,
    copy_digits: Callable[..., Path],
    facts_about_digits: Callable[..., list[dict[str, str]]],
    make_masks: Callable[..., Path],
    write_table: Callable[..., Path],
    write_config: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> FitResult:
    """A finished run of the case's task; tests must not change it."""
    root = tmp_path_factory.mktemp(case)
    data: dict[str, Any] = {"val_ratio": 0.2, "test_ratio": 0.2}
    changes = {"task": case, **CASES[case]}
    if changes["task"] == "segmentation":
        make_masks(root / "data", count=24)
        data |= {"path": str(root / "data" / "images"), "masks": str(root / "data" / "masks")}
    elif changes["task"] == "embedding":
        data |= {
            "path": str(copy_digits(root / "data", labels="01234678", count=12)),
            "per_class": changes.pop("per_class", None),
        }
    else:
        left_out = "digit" if case == "multilabel" else ""
        rows = [{k: v for k, v in row.items() if k != left_out} for row in facts_about_digits(12)]
        data |= {"path": str(write_table(root / "facts.csv", rows))}
    config = write_config(root / "config.yaml", root, epochs=3, augment={"enabled": False}, **{**changes, "data": data})
    return fit(load_config(config))
