"""`train prepare`: checks and splits labelled images, and writes a CSV for each part."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from train.config.loading import Config
from train.data.splits import read_splits
from train.tasks import training_task
from tritonkit.errors import DataError, ExternalError, InputError, is_external_failure
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import COLUMNS
from tritonkit.spec import Frozen, validation_problems


class PreparedData(Frozen):
    """The result of `train prepare`."""

    folder: Path
    fingerprint: str
    labels: tuple[str, ...]
    pictures: dict[str, int]


@dataclass(frozen=True)
class PrepareOptions:
    """The options of `train prepare`, named as on the command line."""

    source: Path | str
    target: Path
    task: str = "multiclass"
    masks: Path | str | None = None
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


def prepare(options: PrepareOptions) -> PreparedData:
    """Read, check and split labelled images; write `train.csv`, `val.csv`, `test.csv` and `data.json`.

    The written folder can be used as `data.path`. Raises DataError that lists all problems of the data, InputError if
    the folder already exists.
    """
    if options.target.exists():
        raise InputError(
            f"{options.target}: already exists; name a new folder, or delete this one", code="output.exists"
        )
    config = _config(options)
    task = training_task(config)
    splits = read_splits(config.data, task, options.seed)
    temporary = options.target.with_name(f".{options.target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        splits.save(temporary, task)
        temporary.rename(options.target)
    except OSError as error:
        if is_external_failure(error):
            raise ExternalError(
                f"{options.target}: cannot be written ({error.strerror})", code="output.not_writable"
            ) from error
        raise DataError(
            f"{options.target}: cannot be written ({error.strerror})", code="output.not_writable"
        ) from error
    counts = {part: len(getattr(splits, part)) for part in PARTS if getattr(splits, part)}
    return PreparedData(
        folder=options.target, fingerprint=splits.fingerprint, labels=splits.task_spec.labels, pictures=counts
    )


def _config(options: PrepareOptions) -> Config:
    """Create a configuration with the task and the data options; name, model and image size are placeholders."""
    val_ratio, test_ratio = parse_ratios(options.ratio)
    data = {
        "path": options.source,
        "masks": options.masks,
        "mask_suffix": options.mask_suffix,
        "mask_values": None if options.mask_values is None else _mapping(options.mask_values),
        "columns": parse_columns(options.columns),
        "labels": None if options.labels is None else [label.strip() for label in options.labels.split(",")],
        "top_classes": options.top_classes,
        "split_by": options.by,
        "group": options.group,
        "split_column": options.split_column,
        "val_ratio": val_ratio,
        "test_ratio": test_ratio,
    }
    values = {"name": "prepare", "task": options.task, "data": data, "model": {"name": ""}, "image": {"size": 1}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"these options cannot be used:\n{validation_problems(error)}", code="option.invalid"
        ) from error


def _mapping(text: str) -> object:
    """Parse `{background: 0, nucleus: 1-255}`, with or without the braces. Raises InputError."""
    try:
        return yaml.safe_load(text if text.lstrip().startswith("{") else f"{{{text}}}")
    except yaml.YAMLError as error:
        raise InputError(
            f"--mask-values {text}: expected CLASS: VALUE, as in background: 0, nucleus: 1-255",
            code="option.mask_values",
        ) from error


def parse_columns(options: Sequence[str]) -> dict[str, str]:
    """Parse `image=filename`, `label=class` into data.columns. Raises InputError."""
    pairs = [option.partition("=") for option in options]
    if bad := [
        option for option, (name, _, column) in zip(options, pairs, strict=True) if name not in COLUMNS or not column
    ]:
        raise InputError(
            f"--column {bad[0]}: expected one of {', '.join(COLUMNS)}, as in image=filename or label=class",
            code="option.column",
        )
    return {name: column for name, _, column in pairs}


def parse_ratios(text: str) -> tuple[float, float]:
    """Parse `0.8:0.2` or `0.7:0.15:0.15` (train, val, test) into val_ratio and test_ratio. Raises InputError."""
    try:
        shares = [float(part) for part in text.split(":")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or min(shares) < 0 or shares[1] <= 0 or shares[0] <= 0:
        raise InputError(
            f"--ratio {text}: expected TRAIN:VAL or TRAIN:VAL:TEST, as in 0.7:0.15:0.15 or 80:20", code="option.ratio"
        )
    total = sum(shares)
    return shares[1] / total, (shares[2] if len(shares) == 3 else 0.0) / total
