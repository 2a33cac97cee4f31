"""Matches the tensors of a file to the tensors of a network: by name, else by order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from tritonkit.errors import CheckpointError
from tritonkit.networks.weights import State

# Counts training steps; no output depends on it, and older files lack it.
_UNUSED = "num_batches_tracked"
_MIN_PREFIX_SHARE = 0.2
_LAST_TENSORS = 2


@dataclass(frozen=True)
class MatchedWeights:
    """Weights with the network's keys, and a description of how they were matched."""

    weights: State
    description: str
    skipped: tuple[str, ...] = ()
    """Tensors of the file that the network lacks or has with another shape."""
    new_tensors: tuple[str, ...] = ()
    """Tensors of the network that are not loaded from the file and start with random values."""


def map_weights(source: State, target: State, origin: str) -> MatchedWeights:
    """Match weights to all tensors of a network, by the rules of `match_weights`.

    Raises CheckpointError that lists missing tensors, or tensors of another shape.
    """
    available, required = _without_counters(source), _without_counters(target)
    by_name, by_order = _by_name(available, required), _by_order(available, required)
    if len(by_name.keys) == len(required):
        _check_shapes({key: available[name] for key, name in by_name.keys.items()}, required, origin)
    elif by_order is not None and len(available) == len(required) == len(by_order.keys):
        _check_shapes({key: available[name] for key, name in by_order.keys.items()}, required, origin)
    else:
        missing = _count_and_first("Missing", [key for key in required if key not in available])
        extra = _count_and_first("not in the network", [key for key in available if key not in required])
        raise CheckpointError(
            f"{origin}: its {len(available)} tensors match the network's {len(required)} neither by name, nor without "
            f"a prefix, nor by order. {'; '.join(filter(None, [missing, extra]))}. Is --model correct?",
            code="checkpoint.no_match",
        )
    counters = {key: tensor for key, tensor in target.items() if key.endswith(_UNUSED)}
    matched = match_weights(source, target, origin)
    description, skipped = matched.description, matched.skipped
    if skipped:
        tensors = "1 tensor of the file is" if len(skipped) == 1 else f"{len(skipped)} tensors of the file are"
        description += f"; {tensors} not used: {', '.join(skipped[:3])}{', …' if len(skipped) > 3 else ''}"
    return replace(matched, weights={**counters, **matched.weights}, description=description)


def match_weights(source: State, target: State, origin: str) -> MatchedWeights:
    """Match weights by name and shape, else by order if the shapes agree; the last layer may differ.

    The network may have other heads, or be part of another network (an encoder). So the prefix of the names may differ
    on both sides, and the pair of prefixes that matches most tensors is used.

    Raises CheckpointError if no tensor fits.
    """
    available, required = _without_counters(source), _without_counters(target)
    pairs = _by_name(available, required).with_equal_shapes(available, required)
    if 2 * len(pairs.keys) < min(len(available), len(required)):
        ordered = _by_order(available, required)
        pairs = pairs if ordered is None else ordered.with_equal_shapes(available, required)
    if not pairs.keys:
        raise CheckpointError(
            f"{origin}: its {len(available)} tensors match the network's {len(required)} neither by name and shape, "
            f"nor by order. Expected {', '.join(list(required)[:3])}, …; "
            f"got {', '.join(list(available)[:3])}, …. "
            "Are the weights for this model?",
            code="checkpoint.no_match",
        )
    matched = {key: available[name] for key, name in pairs.keys.items()}
    if pairs.ordered:  # means and variances have equal shapes, so the order may be wrong
        negative = [key for key, tensor in matched.items() if key.endswith("running_var") and bool((tensor < 0).any())]
        if negative:
            raise CheckpointError(
                f"{origin}: matched by order, {negative[0]} would get negative variances, so the order differs too. "
                "Rename the file's keys to timm's names, or correct --model.",
                code="checkpoint.negative_variance",
            )
    skipped = tuple(name for name in available if name not in set(pairs.keys.values()))
    return MatchedWeights(matched, pairs.description, skipped, tuple(key for key in required if key not in matched))


@dataclass(frozen=True)
class _Pairs:
    """The file's key for each key of the network, and a description of how they were paired."""

    keys: dict[str, str]
    description: str
    ordered: bool = False

    def with_equal_shapes(self, available: State, required: State) -> _Pairs:
        """Return the pairs with equal shapes."""
        return replace(
            self, keys={k: name for k, name in self.keys.items() if available[name].shape == required[k].shape}
        )


def _without_counters(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith(_UNUSED)}


def _by_name(available: State, required: State) -> _Pairs:
    """Pair tensors with equal names. If several prefixes match equally many tensors, a moving average is preferred."""
    first = next(iter(required))
    nesting = [key.removesuffix(first) for key in available if key.endswith("." + first)]
    starts = dict.fromkeys([*_common_prefixes(available, depth=2), *nesting])
    pairs_by_prefix: dict[str, _Pairs] = {}
    for file_prefix in starts:
        candidates = (
            _Pairs(_keys_with_prefixes(available, required, file_prefix, own_prefix), "")
            for own_prefix in _common_prefixes(required, depth=3)
        )
        pairs_by_prefix[file_prefix] = max(
            candidates, key=lambda pairs: len(pairs.with_equal_shapes(available, required).keys)
        )
    counts = {
        prefix: len(pairs.with_equal_shapes(available, required).keys) for prefix, pairs in pairs_by_prefix.items()
    }
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    selected = next((prefix for prefix in best if _is_average(prefix)), best[0])
    keys = pairs_by_prefix[selected].keys
    description = f"matched by name after stripping {selected!r}" if selected else "matched by name"
    others = [prefix for prefix in best if prefix != selected and pairs_by_prefix[prefix].keys != keys]
    if others and counts[selected]:
        reason = "a moving average" if _is_average(selected) else "the first"
        description += f" ({reason}; those under {', '.join(map(repr, others))} fit as well)"
    return replace(pairs_by_prefix[selected], description=description)


def _is_average(prefix: str) -> bool:
    return any(part.startswith("ema") or part.endswith("ema") for part in prefix.lower().split("."))


def _keys_with_prefixes(available: State, required: State, file_prefix: str, own_prefix: str) -> dict[str, str]:
    names = {key: file_prefix + key.removeprefix(own_prefix) for key in required if key.startswith(own_prefix)}
    return {key: name for key, name in names.items() if name in available}


def _by_order(available: State, required: State) -> _Pairs | None:
    """Pair tensors by position if all shapes agree, except for weight and bias of the last layer."""
    for prefix in _common_prefixes(required, depth=3):
        keys = [key for key in required if key.startswith(prefix)]
        paired = list(zip(keys, available, strict=False))
        differ = [n for n, (key, name) in enumerate(paired) if available[name].shape != required[key].shape]
        common = min([*differ, len(paired)])
        if common and max(len(available), len(keys)) - common <= _LAST_TENSORS:
            description = f"{common} tensors matched by order (names differ): check the answers for images you know"
            return _Pairs(dict(paired), description, ordered=True)
    return None


def _common_prefixes(state: State, depth: int) -> list[str]:
    """Return the prefixes of many keys, up to `depth` names long; the first is the empty prefix."""
    names = [key.split(".")[:-1] for key in state]
    counts = Counter("".join(f"{part}." for part in parts[:n]) for n in range(1, depth + 1) for parts in names)
    return ["", *(prefix for prefix, count in counts.items() if count >= len(state) * _MIN_PREFIX_SHARE)]


def _check_shapes(tensors: State, required: State, origin: str) -> None:
    wrong = [
        f"  {key}: expected {list(required[key].shape)}, got {list(tensor.shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != required[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{origin}: {len(wrong)} tensors have another shape than in the network. If only the last layer differs, "
            "the labels file has another number of classes than the weights; otherwise --model has another size.\n"
            + "\n".join(wrong[:10]),
            code="checkpoint.shapes",
        )


def _count_and_first(title: str, keys: list[str]) -> str:
    """Return the number of keys and the first three; empty without keys."""
    return f"{title} {len(keys)}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}" if keys else ""
