"""Someone else's weights: read without running their code, and matched to a network's tensors."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import read_weights
from model.errors import CheckpointError

State = dict[str, Tensor]

_NESTED_IN = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
# Counts training steps; no answer depends on it, and older files lack it.
_UNUSED = "num_batches_tracked"
_GOOD_PART = 0.2
_LAST_LAYER = {"fc", "classifier", "head", "last_linear", "linear"}
_UNREADABLE = (
    "not a readable PyTorch checkpoint: it is damaged, or another kind of file; expected a state dict as torch.save "
    "writes it"
)
# Values that trainers leave beside weights, and that do nothing when they are made. Nothing else is ever added here.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    PosixPath,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]


@dataclass(frozen=True)
class Matched:
    """Weights under the network's own keys, and in words how they were matched."""

    weights: State
    how: str


@dataclass(frozen=True)
class ForeignWeights:
    """The tensors of a file, and what it says of the network they are for."""

    state: State
    architecture: str | None = None
    """timm's trainer and torchvision's write it as `arch`."""


def read_foreign_weights(path: Path) -> State:
    """The tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file. Raises CheckpointError."""
    return read_foreign(path).state


def read_foreign(path: Path) -> ForeignWeights:
    """The tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file: a plain state dict, or that of a trainer.

    Lightning, timm and others keep it under a key, beside their own state. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return ForeignWeights({key: torch.from_numpy(array) for key, array in read_weights(path).items()})
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings(action="ignore"):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path) if _is_pickled(path) else f"{path}: {_UNREADABLE}") from error
    except Exception as error:  # a damaged file fails wherever the reader happens to be
        raise CheckpointError(f"{path}: {_UNREADABLE}") from error
    named = document.get("arch") if isinstance(document, Mapping) else None
    return ForeignWeights(_state_in(document, path), named if isinstance(named, str) else None)


def class_count(state: State) -> tuple[int, str] | None:
    """How many values the last layer gives, and the name of its weight; None where none is to be seen.

    It is a layer with a name that libraries give their last one, else the last in the file.
    """
    layers = [
        (int(tensor.shape[0]), key)
        for key, tensor in state.items()
        if key.endswith("weight") and tensor.ndim >= 2 and key.removesuffix("weight") + "bias" in state
    ]
    named = [layer for layer in layers if _LAST_LAYER.intersection(layer[1].split(".")[-3:])]
    return (named or layers)[-1] if layers else None


def _is_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", b"PK"))


def _refused(path: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - of the oldest formats it cannot tell, in many ways
        found = []
    named = f" ({', '.join(sorted(found)[:4])}{', …' if len(found) > 4 else ''})" if found else ""
    return (
        f"{path}: holds pickled Python objects{named}, which can run code and are not loaded. Save the weights alone, "
        "torch.save(model.state_dict(), FILE) or safetensors, where the file comes from; of a Lightning checkpoint, "
        'torch.save(checkpoint["state_dict"], FILE).'
    )


def _state_in(document: Any, path: Path) -> State:
    if isinstance(document, Mapping):
        inner = next((document[key] for key in _NESTED_IN if isinstance(document.get(key), Mapping)), document)
        state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if state:
            return state
    raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")


def map_weights(source: State, target: State, origin: str) -> Matched:
    """Match weights by name, else by a stripped prefix, else by order where count and shapes agree.

    Raises CheckpointError that says what is missing or of another shape.
    """
    wanted = {key: tensor for key, tensor in target.items() if not key.endswith(_UNUSED)}
    counters = {key: tensor for key, tensor in target.items() if key.endswith(_UNUSED)}
    given = {key: tensor for key, tensor in source.items() if not key.endswith(_UNUSED)}
    for prefix in ("", *_prefixes(given, wanted)):
        named = {key: given[prefix + key] for key in wanted if prefix + key in given}
        if len(named) == len(wanted):
            _check_shapes(named, wanted, origin)
            return Matched({**counters, **named}, _said(prefix, unused=len(given) - len(named)))
    if [t.shape for t in given.values()] == [t.shape for t in wanted.values()]:
        ordered = dict(zip(wanted, given.values(), strict=True))
        _check_variances(ordered, origin)
        return Matched(
            {**counters, **ordered},
            f"{len(ordered)} tensors matched by order (names differ): check the answers of pictures you know",
        )
    if len(given) == len(wanted):
        _check_last_layer(dict(zip(wanted, given.values(), strict=True)), wanted, origin)
    raise CheckpointError(_why_not(given, wanted, origin))


@dataclass(frozen=True)
class Transferred:
    """What fine-tuning starts from: tensors to load, and the names of those not taken or not found."""

    weights: State
    skipped: tuple[str, ...]
    """In the file, not in the network or of another shape there."""
    remade: tuple[str, ...]
    """In the network, not taken from the file: they start anew."""


def transfer_weights(source: State, target: State, origin: str) -> Transferred:
    """Take what fits by name and shape, for a network that may have other heads, or sit in another (an encoder).

    A prefix on either side may differ; the pair of prefixes that brings most tensors is taken.

    Raises CheckpointError when nothing of it fits.
    """
    given = {key: tensor for key, tensor in source.items() if not key.endswith(_UNUSED)}
    wanted = {key: tensor for key, tensor in target.items() if not key.endswith(_UNUSED)}
    pairs = [(theirs, ours) for theirs in _starts(given, depth=2) for ours in _starts(wanted, depth=3)]
    best = max((_fitting(given, wanted, *pair) for pair in pairs), key=len)
    if not best:
        raise CheckpointError(
            f"{origin}: none of its {len(given)} tensors has name and shape of one of the network's {len(wanted)}; "
            f"it has {', '.join(list(given)[:3])}, …; wanted {', '.join(list(wanted)[:3])}, …. Is it for this model?"
        )
    taken = {key: given[name] for key, name in best.items()}
    return Transferred(
        taken,
        skipped=tuple(name for name in given if name not in best.values()),
        remade=tuple(key for key in wanted if key not in taken),
    )


def _fitting(given: State, wanted: State, theirs: str, ours: str) -> dict[str, str]:
    """The network's keys whose tensor the file has under another prefix, and the file's key for each."""
    named = {key: theirs + key.removeprefix(ours) for key in wanted if key.startswith(ours)}
    return {key: name for key, name in named.items() if name in given and given[name].shape == wanted[key].shape}


def _starts(state: State, depth: int) -> list[str]:
    """What a good part of the keys begin with, up to so many names deep; first of all, nothing."""
    names = [key.split(".")[:-1] for key in state]
    counts = Counter("".join(f"{part}." for part in parts[:n]) for n in range(1, depth + 1) for parts in names)
    return ["", *(prefix for prefix, count in counts.items() if count >= len(state) * _GOOD_PART)]


def _prefixes(given: State, wanted: State) -> list[str]:
    first = next(iter(wanted))
    return [key.removesuffix(first) for key in given if key.endswith("." + first)]


def _said(prefix: str, unused: int) -> str:
    how = f"matched by name after stripping {prefix!r}" if prefix else "matched by name"
    return how + (f"; {unused} tensors of the file are not used" if unused else "")


def _check_shapes(named: State, wanted: State, origin: str) -> None:
    wrong = [
        f"  {key}: expected {list(wanted[key].shape)}, got {list(tensor.shape)}"
        for key, tensor in named.items()
        if tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{origin}: {len(wrong)} tensors have another shape than the network's. If only the last layer differs, "
            "the labels file has another number of classes than the weights; otherwise --model is another size.\n"
            + "\n".join(wrong[:10])
        )


def _check_last_layer(ordered: State, wanted: State, origin: str) -> None:
    """Where all but the last weight and bias agree by order, the class count is what is wrong."""
    differing = [key for key, tensor in ordered.items() if tensor.shape != wanted[key].shape]
    if set(differing) <= set(list(wanted)[-2:]):
        _check_shapes(ordered, wanted, origin)


def _check_variances(ordered: State, origin: str) -> None:
    """Means and variances have one shape, so only their values can tell that an order is wrong."""
    negative = [key for key, tensor in ordered.items() if key.endswith("running_var") and bool((tensor < 0).any())]
    if negative:
        raise CheckpointError(
            f"{origin}: matched by order, {negative[0]} would hold negative variances, so the order differs too. "
            "Rename the file's keys to timm's, or name the right --model."
        )


def _why_not(given: State, wanted: State, origin: str) -> str:
    missing = [key for key in wanted if key not in given]
    extra = [key for key in given if key not in wanted]
    return (
        f"{origin}: its {len(given)} tensors fit the network's {len(wanted)} neither by name, nor by a stripped "
        f"prefix, nor by order. {'; '.join(filter(None, [_some('Missing', missing), _some('not known', extra)]))}. "
        "Is --model the right one?"
    )


def _some(what: str, keys: list[str]) -> str:
    """How many there are, and the first of them; empty where there is none."""
    return f"{what} {len(keys)}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}" if keys else ""
