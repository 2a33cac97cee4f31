"""Tensors of a file, matched to those of a network: by name, else by order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from model.errors import CheckpointError
from model.weights import State

# Counts training steps; no answer depends on it, and older files lack it.
_UNUSED = "num_batches_tracked"
_MIN_PREFIX_SHARE = 0.2
_LAST_TENSORS = 2


@dataclass(frozen=True)
class Matched:
    """Weights under the network's own keys, and in words how they were matched."""

    weights: State
    how: str
    skipped: tuple[str, ...] = ()
    """In the file, not in the network or of another shape there."""
    remade: tuple[str, ...] = ()
    """In the network, not taken from the file: they start anew."""


def map_weights(source: State, target: State, origin: str) -> Matched:
    """Match weights for all of a network's tensors, as `match_weights` does.

    Raises CheckpointError that says what is missing or of another shape.
    """
    available, required = _without_counters(source), _without_counters(target)
    named = _by_name(available, required)
    if len(named.keys) == len(required):
        _check_shapes({key: available[name] for key, name in named.keys.items()}, required, origin)
    elif (ordered := _by_order(available, required)) is not None and len(available) == len(required) == len(
        ordered.keys
    ):
        _check_shapes({key: available[name] for key, name in ordered.keys.items()}, required, origin)
    else:
        raise CheckpointError(_mismatch_message(available, required, origin))
    counters = {key: tensor for key, tensor in target.items() if key.endswith(_UNUSED)}
    matched = match_weights(source, target, origin)
    return replace(matched, weights={**counters, **matched.weights}, how=matched.how + _unused_note(matched.skipped))


def match_weights(source: State, target: State, origin: str) -> Matched:
    """Match weights by name and shape, else by order where shapes agree; the last layer may be another.

    The network may have other heads, or sit in another (an encoder): a prefix on either side may differ, and the pair
    of prefixes that brings most tensors is taken.

    Raises CheckpointError when nothing of it fits.
    """
    available, required = _without_counters(source), _without_counters(target)
    pairs = _by_name(available, required).with_equal_shapes(available, required)
    if 2 * len(pairs.keys) < min(len(available), len(required)):
        ordered = _by_order(available, required)
        pairs = pairs if ordered is None else ordered.with_equal_shapes(available, required)
    if not pairs.keys:
        raise CheckpointError(
            f"{origin}: none of its {len(available)} tensors has name and shape of one of the network's {len(required)}, "
            f"nor do they fit by order; it has {', '.join(list(available)[:3])}, …; "
            f"wanted {', '.join(list(required)[:3])}, …. "
            "Is it for this model?"
        )
    taken = {key: available[name] for key, name in pairs.keys.items()}
    if pairs.ordered:
        _check_variances(taken, origin)
    skipped = tuple(name for name in available if name not in set(pairs.keys.values()))
    return Matched(taken, pairs.how, skipped, tuple(key for key in required if key not in taken))


@dataclass(frozen=True)
class _Pairs:
    """The network's keys, the file's key for each, and how they were paired."""

    keys: dict[str, str]
    how: str
    ordered: bool = False

    def with_equal_shapes(self, available: State, required: State) -> _Pairs:
        """Those whose shapes agree."""
        return replace(
            self, keys={k: name for k, name in self.keys.items() if available[name].shape == required[k].shape}
        )


def _without_counters(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith(_UNUSED)}


def _by_name(available: State, required: State) -> _Pairs:
    """Pair tensors of one name. Of several prefixes in the file that bring as many, a moving average is taken."""
    starts = dict.fromkeys([*_common_prefixes(available, depth=2), *_nesting_prefixes(available, required)])
    found: dict[str, _Pairs] = {}
    for file_prefix in starts:
        tries = (
            _Pairs(_keys_with_prefixes(available, required, file_prefix, ours), "")
            for ours in _common_prefixes(required, depth=3)
        )
        found[file_prefix] = max(tries, key=lambda pairs: len(pairs.with_equal_shapes(available, required).keys))
    counts = {theirs: len(pairs.with_equal_shapes(available, required).keys) for theirs, pairs in found.items()}
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


def _keys_with_prefixes(available: State, required: State, file_prefix: str, own_prefix: str) -> dict[str, str]:
    named = {key: file_prefix + key.removeprefix(own_prefix) for key in required if key.startswith(own_prefix)}
    return {key: name for key, name in named.items() if name in available}


def _by_order(available: State, required: State) -> _Pairs | None:
    """Pair tensors by their place where all shapes agree, but for the last layer: its weight and bias."""
    for ours in _common_prefixes(required, depth=3):
        keys = [key for key in required if key.startswith(ours)]
        paired = list(zip(keys, available, strict=False))
        differ = [n for n, (key, name) in enumerate(paired) if available[name].shape != required[key].shape]
        common = min([*differ, len(paired)])
        if common and max(len(available), len(keys)) - common <= _LAST_TENSORS:
            how = f"{common} tensors matched by order (names differ): check the answers of pictures you know"
            return _Pairs(dict(paired), how, ordered=True)
    return None


def _common_prefixes(state: State, depth: int) -> list[str]:
    """What a good part of the keys begin with, up to so many names deep; first of all, nothing."""
    names = [key.split(".")[:-1] for key in state]
    counts = Counter("".join(f"{part}." for part in parts[:n]) for n in range(1, depth + 1) for parts in names)
    return ["", *(prefix for prefix, count in counts.items() if count >= len(state) * _MIN_PREFIX_SHARE)]


def _nesting_prefixes(available: State, required: State) -> list[str]:
    first = next(iter(required))
    return [key.removesuffix(first) for key in available if key.endswith("." + first)]


def _unused_note(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    some = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    return (
        f"; {len(names)} tensors of the file are not used: {some}"
        if len(names) > 1
        else (f"; 1 tensor of the file is not used: {some}")
    )


def _check_shapes(tensors: State, required: State, origin: str) -> None:
    wrong = [
        f"  {key}: expected {list(required[key].shape)}, got {list(tensor.shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != required[key].shape
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


def _mismatch_message(available: State, required: State, origin: str) -> str:
    missing = [key for key in required if key not in available]
    extra = [key for key in available if key not in required]
    return (
        f"{origin}: its {len(available)} tensors fit the network's {len(required)} neither by name, nor by a stripped "
        f"prefix, nor by order. {'; '.join(filter(None, [_count_and_first('Missing', missing), _count_and_first('not known', extra)]))}. "
        "Is --model the right one?"
    )


def _count_and_first(what: str, keys: list[str]) -> str:
    """How many there are, and the first of them; empty where there is none."""
    return f"{what} {len(keys)}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}" if keys else ""
