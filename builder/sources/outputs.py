"""Change the outputs of a model at export, by `--threshold`, `--probability` and `--auxiliary`."""

from __future__ import annotations

from tritonkit.errors import InputError
from tritonkit.export_options import OutputOptions
from tritonkit.networks.network import Network
from tritonkit.spec import TaskSpec
from tritonkit.tasks import task_for


def with_output_options(network: Network, options: OutputOptions) -> Network:
    """The network with other outputs. Raises InputError where the task of the model does not support an option."""
    spec = network.spec
    if options.auxiliary == "keep" and not spec.auxiliary_heads:
        raise InputError(
            f"--auxiliary keep: {spec.name} has no head that predicts the augmentation; leave the option out",
            code="option.auxiliary_unused",
        )
    dropped = spec.auxiliary_heads if options.auxiliary == "drop" else ()
    if options.threshold is None and not options.probability and not dropped:
        return network
    spec = spec.without_heads(dropped)
    task_spec = TaskSpec(**{name: getattr(spec, name) for name in TaskSpec.model_fields})
    if options.threshold is not None:
        task_spec = _with_threshold(task_spec, options.threshold)
    if options.probability:
        without = task_spec.model_copy(update={"probability": False})
        task_spec = task_spec.model_copy(update={"probability": True})
        if task_for(task_spec).outputs(spec.input) == task_for(without).outputs(spec.input):
            raise InputError(
                f"--probability: a {spec.task} model has no mask of two labels; leave the option out",
                code="option.probability_unused",
            )
    changed = {name: getattr(task_spec, name) for name in TaskSpec.model_fields}
    outputs = task_for(task_spec).outputs(spec.input)
    return network.with_spec(spec.model_copy(update={**changed, "outputs": outputs}))


def _with_threshold(task_spec: TaskSpec, threshold: float) -> TaskSpec:
    if task_spec.heads:
        thresholded = [name for name, head in task_spec.heads.items() if task_for(head, name).thresholded]
        if not thresholded:
            raise InputError(
                f"--threshold: none of the heads {', '.join(task_spec.heads)} has a threshold; leave the option out",
                code="option.threshold_unused",
            )
        changed = {name: _with_threshold(task_spec.heads[name], threshold) for name in thresholded}
        return task_spec.model_copy(update={"heads": {**task_spec.heads, **changed}})
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
