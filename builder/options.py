"""Options of `builder export` that say what a foreign state dict does not. No torch at import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from model.errors import InputError
from model.preprocess import MAX_SIDE


@dataclass(frozen=True)
class Foreign:
    """What someone else's weights do not say about themselves; None leaves it to timm's defaults for the model."""

    model: str
    labels: Path
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: tuple[int, int] | None = None


def foreign_from(
    model: str | None, labels: Path | None, mean: str | None, std: str | None, size: str | None
) -> Foreign | None:
    """None when no option was given: the source is a checkpoint of ours. Raises InputError, all problems at once."""
    if (model, labels, mean, std, size) == (None,) * 5:
        return None
    problems: list[str] = []
    if model is None or labels is None:
        problems.append("someone else's weights need both --model and --labels")
    means = _channels("--mean", mean, problems)
    stds = _channels("--std", std, problems)
    if stds and min(stds) <= 0:
        problems.append(f"--std {std}: expected numbers above 0")
    sides = _sides(size, problems)
    if problems or model is None or labels is None:
        raise InputError("; ".join(problems))
    return Foreign(model, labels, means, stds, sides)


def _channels(option: str, text: str | None, problems: list[str]) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        problems.append(f"{option} {text}: expected three numbers, as in 0.485,0.456,0.406")
        return None
    if not all(map(math.isfinite, (red, green, blue))) or max(red, green, blue) > 2:
        problems.append(f"{option} {text}: expected values for pixels in 0..1, divide them by 255")
    return red, green, blue


def _sides(text: str | None, problems: list[str]) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 1 <= int(part) <= MAX_SIDE for part in parts):
        problems.append(f"--size {text}: expected N or HEIGHTxWIDTH, each in 1..{MAX_SIDE}")
        return None
    return int(parts[0]), int(parts[-1])
