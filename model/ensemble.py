"""Whether Triton would load an ensemble: its steps are there, and tensors lead from one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import TritonkitError
from model.finding import Finding, error
from model.triton_backends import ModelConfig
from model.triton_config import CONFIG_FILE, completed_config, completes_tensors, versions_of

_EXPORT = "correct it, or export the model again"


def check_ensemble(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Whether Triton would load it: steps that are here, and tensors that lead from one to the next."""
    if not versions_of(model):
        yield error(model, "has no version folder: Triton wants one, even of an ensemble", "make the folder 1 in it")
    tensors = _with_batch(config, config.input)
    consumers: list[tuple[str, str, _Tensor]] = []
    unknown: set[str] = set()
    for step in config.ensemble_scheduling.step:
        folder = model.parent / step.model_name
        if not folder.is_dir():
            yield error(model, f"a step calls {step.model_name!r}, which is not here", "export that model")
            continue
        try:
            step_config = completed_config(folder)
        except TritonkitError:  # which is told of where that model is checked
            unknown |= set(step.output_map.values())
            continue
        if completes_tensors(step_config):  # what it takes and gives is known when it is loaded
            unknown |= set(step.output_map.values())
            continue
        yield from _check_batch(model, config, step.model_name, step_config)
        yield from _check_map(model, step.model_name, "input", step.input_map, step_config.input)
        yield from _check_map(model, step.model_name, "output", step.output_map, step_config.output)
        named = _with_batch(step_config, step_config.input)
        consumers += [(step.model_name, value, named[key]) for key, value in step.input_map.items() if key in named]
        named = _with_batch(step_config, step_config.output)
        tensors |= {value: named[key] for key, value in step.output_map.items() if key in named}
    consumers += [("the ensemble's output", name, one) for name, one in _with_batch(config, config.output).items()]
    for consumer, name, tensor in consumers:
        if name not in unknown:
            yield from _check_tensor(model, consumer, name, tensor, tensors)


class _Tensor(NamedTuple):
    """A tensor as a model takes or gives it."""

    data_type: int
    dims: list[int]
    batches: bool
    """Whether a batch axis comes before these dims."""

    @property
    def shape(self) -> list[int]:
        """The batch axis included."""
        return [-1, *self.dims] if self.batches else self.dims


def _with_batch(config: ModelConfig, entries: Any) -> dict[str, _Tensor]:
    return {one.name: _Tensor(one.data_type, list(one.dims), config.max_batch_size > 0) for one in entries}


def _check_batch(model: Path, config: ModelConfig, step: str, step_config: ModelConfig) -> Iterator[Finding]:
    if config.max_batch_size > step_config.max_batch_size:
        yield error(
            model / CONFIG_FILE,
            f"its max_batch_size is {config.max_batch_size}, that of its step {step} is {step_config.max_batch_size}",
            _EXPORT,
        )


def _check_map(model: Path, step: str, kind: str, mapped: Mapping[str, str], tensors: Any) -> Iterator[Finding]:
    """Maps must name tensors that the step has, and all that it takes."""
    names = {tensor.name for tensor in tensors}
    if unknown := sorted(set(mapped) - names):
        yield error(model / CONFIG_FILE, f"step {step} has no {kind} {', '.join(unknown)}", _EXPORT)
    needed = {tensor.name for tensor in tensors if kind == "input" and not tensor.optional}
    if missing := sorted(needed - set(mapped)):
        yield error(model / CONFIG_FILE, f"gives step {step} no {', '.join(missing)}", _EXPORT)


def _check_tensor(
    model: Path, consumer: str, name: str, tensor: _Tensor, tensors: Mapping[str, _Tensor]
) -> Iterator[Finding]:
    source = tensors.get(name)
    if source is None:
        yield error(model / CONFIG_FILE, f"nothing gives {name!r}, which {consumer} takes", _EXPORT)
    elif not (_same_type(source, tensor) and _same_sizes(source, tensor)):
        yield error(
            model / CONFIG_FILE,
            f"{name!r} has another type or other sizes ({source.dims}) than {consumer} takes ({tensor.dims})",
            _EXPORT,
        )


def _same_type(produced: _Tensor, consumed: _Tensor) -> bool:
    """0 is a type that is left to Triton."""
    return produced.data_type == consumed.data_type or 0 in (produced.data_type, consumed.data_type)


def _same_sizes(produced: _Tensor, consumed: _Tensor) -> bool:
    """Without the batch axis or with it, as between a model that has one and another that has none."""
    return _are_compatible(produced.dims, consumed.dims) or _are_compatible(produced.shape, consumed.shape)


def _are_compatible(produced: list[int], consumed: list[int]) -> bool:
    """-1 is a size that is not fixed."""
    return len(produced) == len(consumed) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(produced, consumed, strict=True)
    )
