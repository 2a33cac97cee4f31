"""The training side of each task, by the name `model.tasks` knows it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from model.errors import ConfigError
from model.plugins import VARIABLE, plugged_in
from model.spec import ModelSpec, Question
from train.config import Config
from train.sections import HeadConfig
from train.tasks.base import TrainingTask
from train.tasks.embedding import EmbeddingTraining
from train.tasks.heads import HeadsTraining
from train.tasks.multiclass import MulticlassTraining
from train.tasks.multilabel import MultilabelTraining
from train.tasks.segmentation import SegmentationTraining

TRAINING_TASKS: dict[str, type[TrainingTask]] = {
    task.name: task for task in (MulticlassTraining, MultilabelTraining, EmbeddingTraining, SegmentationTraining)
}

__all__ = ["TRAINING_TASKS", "TrainingTask", "training_task", "training_task_of"]


def training_task(config: Config) -> TrainingTask:
    """The task that a configuration trains. Raises ConfigError for one there is not."""
    if config.task == HeadsTraining.name:
        heads = {name: _one(head, name) for name, head in config.heads.items()}
        return HeadsTraining(config, heads, {name: head.weight for name, head in config.heads.items()})
    return _one(config, named=config.data.labels)


def training_task_of(spec: ModelSpec) -> TrainingTask:
    """The task of a trained model, to measure it; truths stand in the columns that its lineage names."""
    recorded = spec.lineage.config
    if spec.heads:
        columns = recorded.get("heads") or {}
        heads = {name: _one(_head_of(head, _section(columns, name)), name) for name, head in spec.heads.items()}
        return HeadsTraining(_head_of(spec, recorded), heads, dict.fromkeys(heads, 1.0))
    return _one(_head_of(spec, recorded), named=spec.labels)


def _head_of(question: Question, recorded: Mapping[str, JsonValue]) -> HeadConfig:
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
