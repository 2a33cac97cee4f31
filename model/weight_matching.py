"""Tensors of a file, matched to those of a network: by name, else by order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from model.errors import CheckpointError
from model.weights import State

# Counts training steps; no answer depends on it, and older files lack it.
_UNUSED = "num_batches_tracked"
_GOOD_PART = 0.2
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
            f"{origin}: none of its {len(given)} tensors has name and shape of one of the network's {len(wanted)}, "
            f"nor do they fit by order; it has {', '.join(list(given)[:3])}, …; "
            f"wanted {', '.join(list(wanted)[:3])}, …. "
            "Is it for this model?"
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
        tries = (_Pairs(_keys_under(given, wanted, theirs, ours), "") for ours in _starts(wanted, depth=3))
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


def _keys_under(given: State, wanted: State, theirs: str, ours: str) -> dict[str, str]:
    named = {key: theirs + key.removeprefix(ours) for key in wanted if key.startswith(ours)}
    return {key: name for key, name in named.items() if name in given}


def _by_order(given: State, wanted: State) -> _Pairs | None:
    """Pair tensors by their place where all shapes agree, but for the last layer: its weight and bias."""
    for ours in _starts(wanted, depth=3):
        keys = [key for key in wanted if key.startswith(ours)]
        paired = list(zip(keys, given, strict=False))
        differ = [n for n, (key, name) in enumerate(paired) if given[name].shape != wanted[key].shape]
        common = min([*differ, len(paired)])
        if common and max(len(given), len(keys)) - common <= _LAST_TENSORS:
            how = f"{common} tensors matched by order (names differ): check the answers of pictures you know"
            return _Pairs(dict(paired), how, ordered=True)
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
