"""Someone else's weights: read without running their code, and matched to a network's tensors."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import read_weights
from model.errors import CheckpointError

State = dict[str, Tensor]

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Where trainers keep the moving average of the weights, which they evaluate and ship."""
_NESTED_IN = (*_AVERAGED, "state_dict", "model_state_dict", "model")
# Counts training steps; no answer depends on it, and older files lack it.
_UNUSED = "num_batches_tracked"
_GOOD_PART = 0.2
_LAST_TENSORS = 2
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
    skipped: tuple[str, ...] = ()
    """In the file, not in the network or of another shape there."""
    remade: tuple[str, ...] = ()
    """In the network, not taken from the file: they start anew."""


@dataclass(frozen=True)
class ForeignWeights:
    """The tensors of a file, and what it says of the network they are for."""

    state: State
    architecture: str | None = None
    """Trainers write it as `arch`."""
    note: str = ""
    """Which of several states was taken, empty where there is one."""


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
        return ForeignWeights({_current(key): torch.from_numpy(array) for key, array in read_weights(path).items()})
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings(action="ignore"):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path) if _is_pickled(path) else f"{path}: {_UNREADABLE}") from error
    except Exception as error:  # a damaged file fails wherever the reader happens to be
        raise CheckpointError(f"{path}: {_UNREADABLE}") from error
    state, note = _state_in(document, path)
    named = document.get("arch") if isinstance(document, Mapping) else None
    return ForeignWeights(state, named if isinstance(named, str) else None, note)


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


def _state_in(document: Any, path: Path) -> tuple[State, str]:
    """The tensors of a document; and, where it holds several states, which of them they are."""
    if isinstance(document, Mapping):
        nested = {key: found for key in _NESTED_IN if (found := _tensors(document.get(key)))}
        state = next(iter(nested.values())) if nested else _tensors(document)
        if len(nested) > 1:
            taken, *left = nested
            what = "the moving average of the weights " if taken in _AVERAGED else ""
            return state, f"{what}in {taken!r} is taken, not {' or '.join(map(repr, left))}"
        if state:
            return state, ""
    raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")


def _tensors(document: Any) -> State:
    if not isinstance(document, Mapping):
        return {}
    return {_current(str(key)): value for key, value in document.items() if isinstance(value, Tensor)}


def _current(key: str) -> str:
    """A tensor's present name; torchvision's files of DenseNet have those of its first release, as `norm.1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def map_weights(source: State, target: State, origin: str) -> Matched:
    """Match weights for all of a network's tensors, as `match_weights` does.

    Raises CheckpointError that says what is missing or of another shape.
    """
    given, wanted = _without_counters(source), _without_counters(target)
    named = _by_name(given, wanted)
    if len(named.keys) == len(wanted):
        _check_shapes({key: given[name] for key, name in named.keys.items()}, wanted, origin)
    elif (ordered := _by_order(given, wanted)) is not None and len(given) == len(wanted) == len(ordered.keys):
        _check_shapes({key: given[name] for key, name in ordered.keys.items()}, wanted, origin)
    else:
        raise CheckpointError(_why_not(given, wanted, origin))
    counters = {key: tensor for key, tensor in target.items() if key.endswith(_UNUSED)}
    matched = match_weights(source, target, origin)
    return replace(matched, weights={**counters, **matched.weights}, how=matched.how + _unused(matched.skipped))


def match_weights(source: State, target: State, origin: str) -> Matched:
    """Match weights by name and shape, else by order where shapes agree; the last layer may be another.

    The network may have other heads, or sit in another (an encoder): a prefix on either side may differ, and the pair
    of prefixes that brings most tensors is taken.

    Raises CheckpointError when nothing of it fits.
    """
    given, wanted = _without_counters(source), _without_counters(target)
    pairs = _by_name(given, wanted).fitting(given, wanted)
    if 2 * len(pairs.keys) < min(len(given), len(wanted)):
        ordered = _by_order(given, wanted)
        pairs = pairs if ordered is None else ordered.fitting(given, wanted)
    if not pairs.keys:
        raise CheckpointError(
            f"{origin}: its {len(given)} tensors fit the network's {len(wanted)} neither by name nor by order; "
            f"it has {', '.join(list(given)[:3])}, …; wanted {', '.join(list(wanted)[:3])}, …. Is it for this model?"
        )
    taken = {key: given[name] for key, name in pairs.keys.items()}
    if pairs.ordered:
        _check_variances(taken, origin)
    skipped = tuple(name for name in given if name not in set(pairs.keys.values()))
    return Matched(taken, pairs.how, skipped, tuple(key for key in wanted if key not in taken))


@dataclass(frozen=True)
class _Pairs:
    """The network's keys, the file's key for each, and how they were paired."""

    keys: dict[str, str]
    how: str
    ordered: bool = False

    def fitting(self, given: State, wanted: State) -> _Pairs:
        """Those whose shapes agree."""
        return replace(self, keys={k: name for k, name in self.keys.items() if given[name].shape == wanted[k].shape})


def _without_counters(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith(_UNUSED)}


def _by_name(given: State, wanted: State) -> _Pairs:
    """Pair tensors of one name. Of several prefixes in the file that bring as many, a moving average is taken."""
    starts = dict.fromkeys([*_starts(given, depth=2), *_prefixes(given, wanted)])
    found: dict[str, _Pairs] = {}
    for theirs in starts:
        tries = (_Pairs(_named(given, wanted, theirs, ours), "") for ours in _starts(wanted, depth=3))
        found[theirs] = max(tries, key=lambda pairs: len(pairs.fitting(given, wanted).keys))
    counts = {theirs: len(pairs.fitting(given, wanted).keys) for theirs, pairs in found.items()}
    best = [theirs for theirs, count in counts.items() if count == max(counts.values())]
    taken = next((theirs for theirs in best if _is_average(theirs)), best[0])
    how = f"matched by name after stripping {taken!r}" if taken else "matched by name"
    others = [theirs for theirs in best if theirs != taken and found[theirs].keys != found[taken].keys]
    if others and counts[taken]:
        what = "a moving average" if _is_average(taken) else "the first"
        how += f" ({what}; those under {', '.join(map(repr, others))} fit as well)"
    return replace(found[taken], how=how)


def _is_average(prefix: str) -> bool:
    return any(part.startswith("ema") or part.endswith("ema") for part in prefix.lower().split("."))


def _named(given: State, wanted: State, theirs: str, ours: str) -> dict[str, str]:
    named = {key: theirs + key.removeprefix(ours) for key in wanted if key.startswith(ours)}
    return {key: name for key, name in named.items() if name in given}


def _by_order(given: State, wanted: State) -> _Pairs | None:
    """Pair tensors by their place where all shapes agree, but for the last layer: its weight and bias."""
    for ours in _starts(wanted, depth=3):
        keys = [key for key in wanted if key.startswith(ours)]
        alike = next(
            (n for n, (a, b) in enumerate(zip(given, keys, strict=False)) if given[a].shape != wanted[b].shape), None
        )
        common = min(len(given), len(keys)) if alike is None else alike
        if common and max(len(given), len(keys)) - common <= _LAST_TENSORS:
            how = f"{common} tensors matched by order (names differ): check the answers of pictures you know"
            return _Pairs(dict(zip(keys, given, strict=False)), how, ordered=True)
    return None


def _starts(state: State, depth: int) -> list[str]:
    """What a good part of the keys begin with, up to so many names deep; first of all, nothing."""
    names = [key.split(".")[:-1] for key in state]
    counts = Counter("".join(f"{part}." for part in parts[:n]) for n in range(1, depth + 1) for parts in names)
    return ["", *(prefix for prefix, count in counts.items() if count >= len(state) * _GOOD_PART)]


def _prefixes(given: State, wanted: State) -> list[str]:
    first = next(iter(wanted))
    return [key.removesuffix(first) for key in given if key.endswith("." + first)]


def _unused(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    some = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    return (
        f"; {len(names)} tensors of the file are not used: {some}"
        if len(names) > 1
        else (f"; 1 tensor of the file is not used: {some}")
    )


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
