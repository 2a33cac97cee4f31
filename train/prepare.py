"""`train prepare`: labelled pictures become the CSVs of a split, checked and with a fingerprint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from model.errors import DataError, ExternalError, InputError, is_outside
from model.spec import Frozen, problems_of
from train.config import Config
from train.data import read_splits
from train.part_names import PARTS
from train.samples import COLUMNS
from train.tasks import training_task


class Prepared(Frozen):
    """What was written."""

    folder: Path
    fingerprint: str
    labels: tuple[str, ...]
    pictures: dict[str, int]


@dataclass(frozen=True)
class PrepareOptions:
    """What to read, and how to split it; in the words of the command line."""

    source: Path
    target: Path
    task: str = "multiclass"
    masks: Path | None = None
    mask_suffix: str = ""
    mask_values: str | None = None
    columns: tuple[str, ...] = ()
    labels: str | None = None
    ratio: str = "0.7:0.15:0.15"
    top_classes: int | None = None
    by: str | None = None
    group: str | None = None
    split_column: str | None = None
    seed: int = 0


def prepare(order: PrepareOptions) -> Prepared:
    """Read, check and split pictures, and write `train.csv`, `val.csv`, `test.csv` and `data.json`.

    The folder is a `data.path` for training. Raises DataError listing everything wrong with the data, InputError when
    the folder is there already.
    """
    if order.target.exists():
        raise InputError(f"{order.target}: is there already; name a folder to make, or delete it")
    config = _config(order)
    task = training_task(config)
    splits = read_splits(config.data, task, order.seed)
    beside = order.target.with_name(f".{order.target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        splits.save(beside, task)
        beside.rename(order.target)
    except OSError as error:
        kind = ExternalError if is_outside(error) else DataError
        raise kind(f"{order.target}: cannot be written ({error.strerror})") from error
    counts = {part: len(getattr(splits, part)) for part in PARTS if getattr(splits, part)}
    return Prepared(folder=order.target, fingerprint=splits.fingerprint, labels=splits.question.labels, pictures=counts)


def _config(order: PrepareOptions) -> Config:
    """A configuration with the data that the order names; nothing else of it is looked at."""
    val_ratio, test_ratio = ratios_of(order.ratio)
    data = {
        "path": order.source,
        "masks": order.masks,
        "mask_suffix": order.mask_suffix,
        "mask_values": None if order.mask_values is None else _mapping(order.mask_values),
        "columns": columns_of(order.columns),
        "labels": None if order.labels is None else [label.strip() for label in order.labels.split(",")],
        "top_classes": order.top_classes,
        "split_by": order.by,
        "group": order.group,
        "split_column": order.split_column,
        "val_ratio": val_ratio,
        "test_ratio": test_ratio,
    }
    values = {"name": "prepare", "task": order.task, "data": data, "model": {"name": ""}, "image": {"size": 1}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"these options cannot be used:\n{problems_of(error)}") from error


def _mapping(text: str) -> object:
    """`{background: 0, nucleus: 1-255}`, with or without the braces. Raises InputError."""
    try:
        return yaml.safe_load(text if text.lstrip().startswith("{") else f"{{{text}}}")
    except yaml.YAMLError as error:
        raise InputError(f"--mask-values {text}: expected CLASS: VALUE, as in background: 0, nucleus: 1-255") from error


def columns_of(words: Sequence[str]) -> dict[str, str]:
    """`image=filename`, `label=class` as data.columns. Raises InputError."""
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, (name, _, theirs) in zip(words, pairs, strict=True) if name not in COLUMNS or not theirs]:
        raise InputError(f"--column {bad[0]}: expected {', '.join(COLUMNS)}, as in image=filename or label=class")
    return {name: theirs for name, _, theirs in pairs}


def ratios_of(text: str) -> tuple[float, float]:
    """`0.8:0.2` or `0.7:0.15:0.15` for train, val and test, as val_ratio and test_ratio. Raises InputError."""
    try:
        shares = [float(part) for part in text.split(":")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or min(shares) < 0 or shares[1] <= 0 or shares[0] <= 0:
        raise InputError(f"--ratio {text}: expected TRAIN:VAL or TRAIN:VAL:TEST, as in 0.7:0.15:0.15 or 80:20")
    total = sum(shares)
    return shares[1] / total, (shares[2] if len(shares) == 3 else 0.0) / total
