"""Options of `builder export` that say what someone else's model does not say of itself. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar, get_args

from model.errors import InputError
from model.preprocess import MAX_SIDE, Fit, Interpolation

Layout = Literal["NCHW", "NHWC"]
"""Where a graph's image input has its three colours."""
ForeignTask = Literal["multiclass", "multilabel", "embedding", "segmentation"]
"""What someone else's model can be asked; several heads are a network of ours alone."""
Activation = Literal["softmax", "sigmoid", "none"]
"""What is to be added to a graph's last values."""
Channels = tuple[float, float, float]
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class ForeignModelOptions:
    """What was said of someone else's model; None leaves it to the file, or to timm's defaults for the model."""

    model: str | None = None
    labels: Path | None = None
    mean: Channels | None = None
    std: Channels | None = None
    size: tuple[int, int] | None = None
    layout: Layout | None = None
    task: ForeignTask | None = None
    activation: Activation | None = None
    fit: Fit | None = None
    crop_ratio: float | None = None
    interpolation: Interpolation | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{field.name.replace('_', '-')}" for field in fields(self) if getattr(self, field.name) is not None]

    def refuse(self, options: Iterable[str], because: str) -> None:
        """Raise InputError where one of the options was given."""
        if wrong := [option for option in self.given if option in options]:
            raise InputError(f"{because}; leave out {' and '.join(wrong)}")


def foreign_from(
    model: str | None,
    labels: Path | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    layout: str | None = None,
    task: str | None = None,
    activation: str | None = None,
    fit: str | None = None,
    crop_ratio: float | None = None,
    interpolation: str | None = None,
) -> ForeignModelOptions | None:
    """None when no option was given. Raises InputError, all problems at once."""
    words = (model, labels, mean, std, size, layout, task, activation, fit, crop_ratio, interpolation)
    if all(word is None for word in words):
        return None
    problems: list[str] = []
    means = _channels("--mean", mean, problems)
    stds = _channels("--std", std, problems)
    if stds and min(stds) <= 0:
        problems.append(f"--std {std}: expected numbers above 0")
    sides = _sides(size, problems)
    laid = _word("--layout", layout and layout.upper(), get_args(Layout), problems)
    asked = _word("--task", task, get_args(ForeignTask), problems)
    added = _word("--activation", activation, get_args(Activation), problems)
    fitted = _word("--fit", fit, get_args(Fit), problems)
    resized = _word("--interpolation", interpolation, get_args(Interpolation), problems)
    if crop_ratio is not None and not 0 < crop_ratio <= 1:
        problems.append(f"--crop-ratio {crop_ratio:g}: expected a number above 0, up to 1")
    if crop_ratio is not None and fit in ("pad", "squash"):
        problems.append(f"--crop-ratio: --fit {fit} keeps the whole picture; leave it out")
    if labels is not None and not labels.is_file():
        problems.append(f"--labels {labels}: no such file; expected one label a line")
    if asked == "embedding" and labels is not None:
        problems.append("--labels: an embedding has none; leave it out")
    if problems:
        raise InputError("; ".join(problems))
    return ForeignModelOptions(model, labels, means, stds, sides, laid, asked, added, fitted, crop_ratio, resized)


def _channels(option: str, text: str | None, problems: list[str]) -> Channels | None:
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


def _word(option: str, text: str | None, known: tuple[Word, ...], problems: list[str]) -> Word | None:
    for word in known:
        if text == word:
            return word
    if text is not None:
        problems.append(f"{option} {text}: expected {', '.join(known)}")
    return None
