"""The training tasks, by the names of `tritonkit.tasks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from train.config.loading import Config
from train.config.sections import DataConfig, HeadConfig
from train.samples.mask_values import MaskMapping, MaskValues
from train.tasks.base import TrainingTask
from train.tasks.embedding import EmbeddingTraining
from train.tasks.heads import HeadsTraining
from train.tasks.multiclass import MulticlassTraining
from train.tasks.multilabel import MultilabelTraining
from train.tasks.segmentation import SegmentationTraining
from tritonkit.errors import ConfigError
from tritonkit.plugins import VARIABLE, registered_plugins
from tritonkit.spec import ModelSpec, TaskSpec

TRAINING_TASKS: dict[str, type[TrainingTask]] = {
    task.name: task for task in (MulticlassTraining, MultilabelTraining, EmbeddingTraining, SegmentationTraining)
}

__all__ = ["TRAINING_TASKS", "TrainingTask", "recorded_data", "training_task", "training_task_of"]


def training_task(config: Config) -> TrainingTask:
    """Create the training task of a configuration. Raises ConfigError for an unknown task."""
    if config.task == HeadsTraining.name:
        heads = {name: _single_task(head, name) for name, head in config.heads.items()}
        return HeadsTraining(config, heads, {name: head.weight for name, head in config.heads.items()})
    return _with_mask_values(_single_task(config, label_names=config.data.labels), config.data.mask_values)


def training_task_of(spec: ModelSpec) -> TrainingTask:
    """Create the training task of a trained model, to measure it; columns and mask values come from its lineage."""
    recorded = spec.lineage.config
    if spec.heads:
        columns = recorded.get("heads") or {}
        heads = {
            name: _single_task(_head_config(head, _section(columns, name)), name) for name, head in spec.heads.items()
        }
        return HeadsTraining(_head_config(spec, recorded), heads, dict.fromkeys(heads, 1.0))
    data = recorded_data(spec)
    label_names = spec.labels if spec.task == SegmentationTraining.name else data.labels
    return _with_mask_values(_single_task(_head_config(spec, recorded), label_names=label_names), data.mask_values)


def recorded_data(spec: ModelSpec, path: Path = Path(), masks: Path | None = None) -> DataConfig:
    """Create the data section for `path`, with the column and mask settings of the model's lineage."""
    recorded = _section(spec.lineage.config, "data")
    names = ("columns", "mask_suffix", "mask_values", "labels")
    try:
        return DataConfig.model_validate(
            {name: recorded[name] for name in names if name in recorded} | {"path": path, "masks": masks}
        )
    except ValidationError:  # the lineage of another version
        return DataConfig(path=path, masks=masks)


def _with_mask_values(task: TrainingTask, values: MaskValues | None) -> TrainingTask:
    if values is not None and isinstance(task, SegmentationTraining):
        task.map_values(MaskMapping(values, configured=True))
    return task


def _head_config(task_spec: TaskSpec, recorded: Mapping[str, JsonValue]) -> HeadConfig:
    column = recorded.get("column")
    return HeadConfig(
        task=task_spec.task, thresholds=task_spec.thresholds, column=column if isinstance(column, str) else None
    )


def _section(document: JsonValue, name: str) -> Mapping[str, JsonValue]:
    section = document.get(name) if isinstance(document, dict) else None
    return section if isinstance(section, dict) else {}


def _single_task(
    config: HeadConfig, output: str | None = None, label_names: Sequence[str] | None = None
) -> TrainingTask:
    tasks: dict[str, Any] = {**registered_plugins("training task"), **TRAINING_TASKS}
    if config.task not in tasks:
        raise ConfigError(
            f"task: unknown task {config.task!r}; choose one of {', '.join([*tasks, HeadsTraining.name])}. "
            f"For your own task, list its module under `plugins:`, or in {VARIABLE}",
            code="config.unknown_task",
        )
    task: TrainingTask = tasks[config.task](config, output, label_names)
    return task
