"""Change the outputs of a model at export, by `--threshold` and `--probability`."""

from __future__ import annotations

from tritonkit.errors import InputError
from tritonkit.export_options import OutputOptions
from tritonkit.networks.network import Network
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.tasks import task_for


def with_output_options(network: Network, options: OutputOptions) -> Network:
    """The network with other outputs. Raises InputError where the task of the model does not support an option."""
    if options.threshold is None and not options.probability:
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
    if task_spec.heads:
        return _with_threshold_in_heads(task_spec, threshold)
    task = task_for(task_spec)
    labels = task_spec.labels[1:] if task.dense else task_spec.labels
    if not task_spec.labels:
        raise InputError(
            f"--threshold: a {task_spec.task} model has no labels to decide; leave the option out",
            code="option.threshold_unused",
        )
    if not task.thresholded or (task.dense and len(labels) > 1):
        raise InputError(
            f"--threshold: a {task_spec.task} model of {len(task_spec.labels)} labels answers with the most probable "
            "label; leave the option out",
            code="option.threshold_unused",
        )
    return task_spec.model_copy(update={"thresholds": dict.fromkeys(labels, threshold)})


def _with_threshold_in_heads(task_spec: TaskSpec, threshold: float) -> TaskSpec:
    thresholded = [name for name, head in task_spec.heads.items() if task_for(head, name).thresholded]
    if not thresholded:
        raise InputError(
            f"--threshold: none of the heads {', '.join(task_spec.heads)} has a threshold; leave the option out",
            code="option.threshold_unused",
        )
    changed = {name: _with_threshold(task_spec.heads[name], threshold) for name in thresholded}
    return task_spec.model_copy(update={"heads": {**task_spec.heads, **changed}})


def _with_probability(task_spec: TaskSpec, spec: ModelSpec) -> TaskSpec:
    without = task_spec.model_copy(update={"probability": False})
    with_probability = task_spec.model_copy(update={"probability": True})
    if task_for(with_probability).outputs(spec.input) == task_for(without).outputs(spec.input):
        raise InputError(
            f"--probability: a {spec.task} model has no mask of two labels; leave the option out",
            code="option.probability_unused",
        )
    return with_probability
