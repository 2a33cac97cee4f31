"""The training side of each task, by the name `model.tasks` knows it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from model.errors import ConfigError
from model.plugins import VARIABLE, plugged_in
from model.spec import ModelSpec, TaskSpec
from train.config import Config
from train.mask_values import MaskValues, Meaning
from train.sections import DataConfig, HeadConfig
from train.tasks.base import TrainingTask
from train.tasks.embedding import EmbeddingTraining
from train.tasks.heads import HeadsTraining
from train.tasks.multiclass import MulticlassTraining
from train.tasks.multilabel import MultilabelTraining
from train.tasks.segmentation import SegmentationTraining

TRAINING_TASKS: dict[str, type[TrainingTask]] = {
    task.name: task for task in (MulticlassTraining, MultilabelTraining, EmbeddingTraining, SegmentationTraining)
}

__all__ = ["TRAINING_TASKS", "TrainingTask", "recorded_data", "training_task", "training_task_of"]


def training_task(config: Config) -> TrainingTask:
    """The task that a configuration trains. Raises ConfigError for one there is not."""
    if config.task == HeadsTraining.name:
        heads = {name: _one(head, name) for name, head in config.heads.items()}
        return HeadsTraining(config, heads, {name: head.weight for name, head in config.heads.items()})
    return _with_data(_one(config, named=config.data.labels), config.data.mask_values)


def training_task_of(spec: ModelSpec) -> TrainingTask:
    """The task of a trained model, to measure it; its lineage says in which columns and values truths stand."""
    recorded = spec.lineage.config
    if spec.heads:
        columns = recorded.get("heads") or {}
        heads = {name: _one(_head_of(head, _section(columns, name)), name) for name, head in spec.heads.items()}
        return HeadsTraining(_head_of(spec, recorded), heads, dict.fromkeys(heads, 1.0))
    data = recorded_data(spec)
    named = spec.labels if spec.task == SegmentationTraining.name else data.labels
    return _with_data(_one(_head_of(spec, recorded), named=named), data.mask_values)


def recorded_data(spec: ModelSpec, path: Path = Path(), masks: Path | None = None) -> DataConfig:
    """How the data of a trained model was written, as far as its lineage says, for other data in its place."""
    recorded = _section(spec.lineage.config, "data")
    names = ("columns", "mask_suffix", "mask_values", "labels")
    try:
        return DataConfig.model_validate(
            {name: recorded[name] for name in names if name in recorded} | {"path": path, "masks": masks}
        )
    except ValidationError:  # of another version
        return DataConfig(path=path, masks=masks)


def _with_data(task: TrainingTask, values: MaskValues | None) -> TrainingTask:
    if values is not None and isinstance(task, SegmentationTraining):
        task.map_values(Meaning(values, configured=True))
    return task


def _head_of(question: TaskSpec, recorded: Mapping[str, JsonValue]) -> HeadConfig:
    column = recorded.get("column")
    return HeadConfig(
        task=question.task, thresholds=question.thresholds, column=column if isinstance(column, str) else None
    )


def _section(document: JsonValue, name: str) -> Mapping[str, JsonValue]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _one(config: HeadConfig, output: str | None = None, named: Sequence[str] | None = None) -> TrainingTask:
    kinds: dict[str, Any] = {**plugged_in("training task"), **TRAINING_TASKS}
    if config.task not in kinds:
        raise ConfigError(
            f"task: there is no {config.task!r}; there are {', '.join([*kinds, HeadsTraining.name])}. For one of your "
            f"own, name its module under `plugins:`, or in {VARIABLE}"
        )
    task: TrainingTask = kinds[config.task](config, output, named)
    return task
