"""The tasks on labelled data, by the names of `tritonkit.tasks`: how their truths are read, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tritonkit.errors import ConfigError
from tritonkit.evaluation.config import AuxiliaryConfig, LabelledData, TaskConfig
from tritonkit.evaluation.samples.mask_values import MaskMapping, MaskValues
from tritonkit.evaluation.tasks.augmentation import AugmentationEvaluation
from tritonkit.evaluation.tasks.base import EvaluationTask
from tritonkit.evaluation.tasks.embedding import EmbeddingEvaluation
from tritonkit.evaluation.tasks.heads import HeadsEvaluation
from tritonkit.evaluation.tasks.multiclass import MulticlassEvaluation
from tritonkit.evaluation.tasks.multilabel import MultilabelEvaluation
from tritonkit.evaluation.tasks.search import SearchEvaluation
from tritonkit.evaluation.tasks.segmentation import SegmentationEvaluation
from tritonkit.plugins import VARIABLE, registered_plugins
from tritonkit.spec import ModelSpec, TaskSpec

EVALUATION_TASKS: dict[str, type[EvaluationTask]] = {
    task.name: task
    for task in (
        MulticlassEvaluation,
        MultilabelEvaluation,
        EmbeddingEvaluation,
        SegmentationEvaluation,
        SearchEvaluation,
    )
}

__all__ = ["EVALUATION_TASKS", "EvaluationTask", "evaluation_task_of", "make_task", "recorded_data", "with_mask_values"]


def evaluation_task_of(spec: ModelSpec) -> EvaluationTask:
    """Create the task of a trained model, to measure it; columns and mask values come from its lineage."""
    recorded = spec.lineage.config
    if spec.heads:
        columns = recorded.get("heads") or {}
        return HeadsEvaluation(
            _task_config(spec, recorded),
            {
                name: AugmentationEvaluation(_auxiliary_config(_section(columns, name)), name)
                if name in spec.auxiliary_heads
                else make_task(EVALUATION_TASKS, _task_config(head, _section(columns, name)), name)
                for name, head in spec.heads.items()
            },
        )
    data = recorded_data(spec)
    label_names = spec.labels if spec.task == SegmentationEvaluation.name else data.labels
    task = make_task(EVALUATION_TASKS, _task_config(spec, recorded), label_names=label_names)
    measured: EvaluationTask = with_mask_values(task, data.all_mask_values())
    return measured


def recorded_data(spec: ModelSpec, path: Path = Path(), masks: Path | None = None) -> LabelledData:
    """The labelled data at `path`, with the column and mask settings of the model's lineage."""
    recorded = _section(spec.lineage.config, "data")
    names = ("columns", "mask_suffix", "mask_values", "ignore_index", "labels")
    try:
        return LabelledData.model_validate(
            {name: recorded[name] for name in names if name in recorded} | {"path": path, "masks": masks}
        )
    except ValidationError:  # the lineage of another version
        return LabelledData(path=path, masks=masks)


def make_task(
    known: Mapping[str, type[EvaluationTask]],
    config: TaskConfig,
    output: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Any:
    """Create a known task, or that of a plug-in. Raises ConfigError for an unknown one."""
    tasks: dict[str, Any] = {**registered_plugins("training task"), **known}
    if config.task not in tasks:
        raise ConfigError(
            f"task: unknown task {config.task!r}; choose one of {', '.join([*tasks, HeadsEvaluation.name])}. "
            f"For your own task, list its module under `plugins:`, or in {VARIABLE}",
            code="config.unknown_task",
        )
    return tasks[config.task](config, output, label_names)


def with_mask_values(task: Any, values: MaskValues | None) -> Any:
    """The task, which reads masks with the configured values if it is segmentation. Raises ConfigError."""
    if values is not None and isinstance(task, SegmentationEvaluation):
        task.map_values(MaskMapping(values, configured=True))
    return task


def _task_config(task_spec: TaskSpec, recorded: Mapping[str, JsonValue]) -> TaskConfig:
    column = recorded.get("column")
    return TaskConfig(
        task=task_spec.task, thresholds=task_spec.thresholds, column=column if isinstance(column, str) else None
    )


def _auxiliary_config(recorded: Mapping[str, JsonValue]) -> AuxiliaryConfig:
    return AuxiliaryConfig.model_validate({name: recorded.get(name) for name in ("task", "operation")})


def _section(document: JsonValue, name: str) -> Mapping[str, JsonValue]:
    section = document.get(name) if isinstance(document, dict) else None
    return section if isinstance(section, dict) else {}
