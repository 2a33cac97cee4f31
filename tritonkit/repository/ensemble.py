"""Checks whether Triton can load an ensemble: its steps exist, and their tensors fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import Finding, error
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    backend_completes_tensors,
    completed_config,
    shapes_fit,
    versions_of,
)

_EXPORT = "correct it, or export the model again"


def check_ensemble(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Yield the findings that keep Triton from loading an ensemble: missing steps, and tensors that do not fit."""
    if not versions_of(model):
        yield error(
            model,
            "has no version folder: Triton needs one, even for an ensemble",
            "create the folder 1 in it",
            code="repository.no_version",
        )
    tensors = _with_batch(config, config.input)
    consumers: list[tuple[str, str, _Tensor]] = []
    unknown: set[str] = set()
    for step in config.ensemble_scheduling.step:
        folder = model.parent / step.model_name
        if not folder.is_dir():
            yield error(
                model,
                f"a step calls {step.model_name!r}, which is not in the repository",
                "export that model",
                code="ensemble.missing_step",
            )
            continue
        try:
            step_config = completed_config(folder)
        except TritonkitError:  # reported by the check of that model
            unknown |= set(step.output_map.values())
            continue
        if backend_completes_tensors(step_config):  # its inputs and outputs are known only after loading
            unknown |= set(step.output_map.values())
            continue
        if config.max_batch_size > step_config.max_batch_size:
            yield error(
                model / CONFIG_FILE,
                f"its max_batch_size is {config.max_batch_size}, that of its step {step.model_name} is "
                f"{step_config.max_batch_size}",
                _EXPORT,
                code="ensemble.batch",
            )
        yield from _check_map(model, step.model_name, "input", step.input_map, step_config.input)
        yield from _check_map(model, step.model_name, "output", step.output_map, step_config.output)
        inputs = _with_batch(step_config, step_config.input)
        consumers += [(step.model_name, value, inputs[key]) for key, value in step.input_map.items() if key in inputs]
        outputs = _with_batch(step_config, step_config.output)
        tensors |= {value: outputs[key] for key, value in step.output_map.items() if key in outputs}
    consumers += [("the ensemble's output", name, out) for name, out in _with_batch(config, config.output).items()]
    for consumer, name, tensor in consumers:
        if name not in unknown:
            yield from _check_tensor(model, consumer, name, tensor, tensors)


class _Tensor(NamedTuple):
    """An input or output tensor of a model."""

    data_type: int
    dims: list[int]
    batches: bool
    """Whether a batch axis comes before these dims."""

    @property
    def shape(self) -> list[int]:
        """Return the dims with the batch axis."""
        return [-1, *self.dims] if self.batches else self.dims


def _with_batch(config: ModelConfig, entries: Any) -> dict[str, _Tensor]:
    return {entry.name: _Tensor(entry.data_type, list(entry.dims), config.max_batch_size > 0) for entry in entries}


def _check_map(model: Path, step: str, kind: str, mapped: Mapping[str, str], tensors: Any) -> Iterator[Finding]:
    """Check that a map contains only tensors of the step, and all its inputs."""
    names = {tensor.name for tensor in tensors}
    if unknown := sorted(set(mapped) - names):
        message = f"step {step} has no {kind} {', '.join(unknown)}"
        yield error(model / CONFIG_FILE, message, _EXPORT, code="ensemble.unknown_tensor")
    needed = {tensor.name for tensor in tensors if kind == "input" and not tensor.optional}
    if missing := sorted(needed - set(mapped)):
        message = f"has no input {', '.join(missing)} for step {step}"
        yield error(model / CONFIG_FILE, message, _EXPORT, code="ensemble.missing_input")


def _check_tensor(
    model: Path, consumer: str, name: str, tensor: _Tensor, tensors: Mapping[str, _Tensor]
) -> Iterator[Finding]:
    source = tensors.get(name)
    if source is None:
        message = f"no step produces {name!r}, which {consumer} takes"
        yield error(model / CONFIG_FILE, message, _EXPORT, code="ensemble.missing_input")
        return
    types = {source.data_type, tensor.data_type} - {0}  # 0 is a type that Triton chooses
    # One of the models may have no batch axis.
    sizes_fit = shapes_fit(source.dims, tensor.dims) or shapes_fit(source.shape, tensor.shape)
    if len(types) > 1 or not sizes_fit:
        yield error(
            model / CONFIG_FILE,
            f"{name!r} has another type or shape ({source.dims}) than {consumer} takes ({tensor.dims})",
            _EXPORT,
            code="ensemble.tensor_shape",
        )
