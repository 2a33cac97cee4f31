"""Whether Triton would load an ensemble: its steps are there, and tensors lead from one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.errors import TritonkitError
from model.finding import Finding, error
from model.triton_backends import ModelConfig
from model.triton_config import CONFIG_FILE, read_config, versions_of

_EXPORT = "export the model again"


def check_ensemble(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Whether Triton would load it: steps that are here, and tensors that lead from one to the next."""
    if not versions_of(model):
        yield error(model, "has no version folder: Triton wants one, even of an ensemble", "make the folder 1 in it")
    tensors = {tensor.name: tensor for tensor in config.input}
    wanted: list[tuple[str, str, Any]] = []
    for step in config.ensemble_scheduling.step:
        folder = model.parent / step.model_name
        if not folder.is_dir():
            yield error(model, f"a step calls {step.model_name!r}, which is not here", "export that model")
            continue
        try:
            called = read_config(folder)
        except TritonkitError:  # which is told of where that model is checked
            continue
        yield from _check_batch(model, config, called)
        yield from _check_map(model, step.model_name, "input", step.input_map, called.input)
        yield from _check_map(model, step.model_name, "output", step.output_map, called.output)
        named = {tensor.name: tensor for tensor in called.input}
        wanted += [(step.model_name, value, named[key]) for key, value in step.input_map.items() if key in named]
        named = {tensor.name: tensor for tensor in called.output}
        tensors |= {value: named[key] for key, value in step.output_map.items() if key in named}
    wanted += [("the ensemble's output", tensor.name, tensor) for tensor in config.output]
    for taker, name, tensor in wanted:
        yield from _check_tensor(model, taker, name, tensor, tensors)


def _check_batch(model: Path, config: ModelConfig, called: ModelConfig) -> Iterator[Finding]:
    if config.max_batch_size > called.max_batch_size:
        yield error(
            model / CONFIG_FILE,
            f"its max_batch_size is {config.max_batch_size}, that of its step {called.name} is {called.max_batch_size}",
            _EXPORT,
        )


def _check_map(model: Path, step: str, kind: str, mapped: Mapping[str, str], there: Any) -> Iterator[Finding]:
    """Maps must name tensors that the step has, and all that it takes."""
    names = {tensor.name for tensor in there}
    if strangers := sorted(set(mapped) - names):
        yield error(model / CONFIG_FILE, f"step {step} has no {kind} {', '.join(strangers)}", _EXPORT)
    needed = {tensor.name for tensor in there if kind == "input" and not tensor.optional}
    if missing := sorted(needed - set(mapped)):
        yield error(model / CONFIG_FILE, f"gives step {step} no {', '.join(missing)}", _EXPORT)


def _check_tensor(model: Path, taker: str, name: str, tensor: Any, tensors: Mapping[str, Any]) -> Iterator[Finding]:
    source = tensors.get(name)
    if source is None:
        yield error(model / CONFIG_FILE, f"nothing gives {name!r}, which {taker} takes", _EXPORT)
    elif not (_same_type(source, tensor) and _same_sizes(source.dims, tensor.dims)):
        given, taken = f"{list(source.dims)}", f"{list(tensor.dims)}"
        yield error(
            model / CONFIG_FILE,
            f"{name!r} has another type or other sizes ({given}) than {taker} takes ({taken})",
            _EXPORT,
        )


def _same_type(given: Any, taken: Any) -> bool:
    """0 is a type that is left to Triton."""
    return given.data_type == taken.data_type or 0 in (given.data_type, taken.data_type)


def _same_sizes(given: Any, taken: Any) -> bool:
    """-1 is a size that is not fixed."""
    return len(given) == len(taken) and all(-1 in pair or pair[0] == pair[1] for pair in zip(given, taken, strict=True))
