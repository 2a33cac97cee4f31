"""The terms a model is asked in: what `--threshold` and `--probability` change of a checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass

from model.errors import InputError
from model.network import Network
from model.spec import ModelSpec, TaskSpec
from model.tasks import task_for


@dataclass(frozen=True)
class OutputOptions:
    """What is asked beyond what was trained; None and False leave a checkpoint as it is."""

    threshold: float | None = None
    """The probability from which a label holds, for all labels but the background."""
    probability: bool = False
    """Give the foreground's probability beside the mask."""


def in_terms(network: Network, options: OutputOptions) -> Network:
    """The same weights asked in other terms. Raises InputError where the model's task knows no such term."""
    if options == OutputOptions():
        return network
    spec = network.spec
    task_spec = TaskSpec(**{name: getattr(spec, name) for name in TaskSpec.model_fields})
    if options.threshold is not None:
        task_spec = _with_threshold(task_spec, options.threshold)
    if options.probability:
        task_spec = _with_probability(task_spec, spec)
    changed = {name: getattr(task_spec, name) for name in TaskSpec.model_fields}
    outputs = task_for(task_spec).outputs(spec.input)
    return network.with_spec(spec.model_copy(update={**changed, "outputs": outputs}))


def _with_threshold(task_spec: TaskSpec, threshold: float) -> TaskSpec:
    if not 0 < threshold < 1:  # NaN neither
        raise InputError(f"--threshold {threshold}: expected a probability between 0 and 1")
    if task_spec.heads:
        return _with_threshold_in_heads(task_spec, threshold)
    task = task_for(task_spec)
    labels = task_spec.labels[1:] if task.dense else task_spec.labels
    if not task_spec.labels:
        raise InputError(f"--threshold: a {task_spec.task} model decides nothing by one; leave the option out")
    if not task.thresholded or (task.dense and len(labels) > 1):
        raise InputError(
            f"--threshold: a {task_spec.task} model of {len(task_spec.labels)} labels takes what is most probable; leave "
            "the option out"
        )
    return task_spec.model_copy(update={"thresholds": dict.fromkeys(labels, threshold)})


def _with_threshold_in_heads(task_spec: TaskSpec, threshold: float) -> TaskSpec:
    deciding = [name for name, head in task_spec.heads.items() if task_for(head, name).thresholded]
    if not deciding:
        raise InputError(f"--threshold: none of the heads {', '.join(task_spec.heads)} decides by one; leave it out")
    changed = {name: _with_threshold(task_spec.heads[name], threshold) for name in deciding}
    return task_spec.model_copy(update={"heads": {**task_spec.heads, **changed}})


def _with_probability(task_spec: TaskSpec, spec: ModelSpec) -> TaskSpec:
    without, asked = (task_spec.model_copy(update={"probability": wanted}) for wanted in (False, True))
    if task_for(asked).outputs(spec.input) == task_for(without).outputs(spec.input):
        raise InputError(f"--probability: a {spec.task} model has no mask to give it beside; leave the option out")
    return asked
