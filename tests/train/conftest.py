from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from train.config import Config, load_config
from train.fit import Fitted, fit

CopyDigits = Callable[..., Path]
WriteConfig = Callable[..., Path]


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

    def write(path: Path, data: Path, **changes: object) -> Path:
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


@pytest.fixture
def folder(copy_digits: CopyDigits, tmp_path: Path) -> Path:
    """Twelve pictures each of 0, 1 and 7."""
    return copy_digits(tmp_path / "data")


@pytest.fixture(scope="session")
def trained_config(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """Sixty pictures each of 0, 1 and 7."""
    root = tmp_path_factory.mktemp("trained")
    data = copy_digits(root / "data", count=60)
    return load_config(write_config(root / "config.yaml", data, epochs=12, workers=1, label_smoothing=0.05))


@pytest.fixture(scope="session")
def trained(trained_config: Config) -> Fitted:
    """A finished run; not to be changed."""
    return fit(trained_config)
