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


def in_terms(network: Network, terms: OutputOptions) -> Network:
    """The same weights asked in other terms. Raises InputError where the model's task knows no such term."""
    if terms == OutputOptions():
        return network
    spec = network.spec
    question = TaskSpec(**{name: getattr(spec, name) for name in TaskSpec.model_fields})
    if terms.threshold is not None:
        question = _with_threshold(question, terms.threshold)
    if terms.probability:
        question = _with_probability(question, spec)
    changed = {name: getattr(question, name) for name in TaskSpec.model_fields}
    outputs = task_for(question).outputs(spec.input)
    return network.with_spec(spec.model_copy(update={**changed, "outputs": outputs}))


def _with_threshold(question: TaskSpec, threshold: float) -> TaskSpec:
    if not 0 < threshold < 1:  # NaN neither
        raise InputError(f"--threshold {threshold}: expected a probability between 0 and 1")
    if question.heads:
        return _with_threshold_in_heads(question, threshold)
    task = task_for(question)
    labels = question.labels[1:] if task.dense else question.labels
    if not question.labels:
        raise InputError(f"--threshold: a {question.task} model decides nothing by one; leave the option out")
    if not task.thresholded or (task.dense and len(labels) > 1):
        raise InputError(
            f"--threshold: a {question.task} model of {len(question.labels)} labels takes what is most probable; leave "
            "the option out"
        )
    return question.model_copy(update={"thresholds": dict.fromkeys(labels, threshold)})


def _with_threshold_in_heads(question: TaskSpec, threshold: float) -> TaskSpec:
    deciding = [name for name, head in question.heads.items() if task_for(head, name).thresholded]
    if not deciding:
        raise InputError(f"--threshold: none of the heads {', '.join(question.heads)} decides by one; leave it out")
    changed = {name: _with_threshold(question.heads[name], threshold) for name in deciding}
    return question.model_copy(update={"heads": {**question.heads, **changed}})


def _with_probability(question: TaskSpec, spec: ModelSpec) -> TaskSpec:
    without, asked = (question.model_copy(update={"probability": wanted}) for wanted in (False, True))
    if task_for(asked).outputs(spec.input) == task_for(without).outputs(spec.input):
        raise InputError(f"--probability: a {spec.task} model has no mask to give it beside; leave the option out")
    return asked
