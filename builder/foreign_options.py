"""Options of `builder export` that describe a third-party model. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar, get_args

from tritonkit.errors import InputError, Problem
from tritonkit.images.preprocess import MAX_SIDE, Fit, Interpolation

Layout = Literal["NCHW", "NHWC"]
"""The axis order of a graph's image input."""
ForeignTask = Literal["multiclass", "multilabel", "embedding", "segmentation"]
"""The tasks of third-party models. Only our own networks have several heads."""
Activation = Literal["softmax", "sigmoid", "none"]
"""The activation to add after a graph's last values."""
Channels = tuple[float, float, float]
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class ForeignModelOptions:
    """The description of a third-party model; None takes the value of the file, or timm's default for the model."""

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
    def set_options(self) -> list[str]:
        """The options that are set, as written on the command line."""
        return [f"--{field.name.replace('_', '-')}" for field in fields(self) if getattr(self, field.name) is not None]

    def refuse(self, options: Iterable[str], because: str) -> None:
        """Raise InputError where one of the options is set. because: the reason, which starts the message."""
        if refused := [option for option in self.set_options if option in options]:
            raise InputError(f"{because}; leave out {' and '.join(refused)}", code="option.foreign_unused")


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
    """Read the options; None where none is set. Raises InputError that lists all problems."""
    values = (model, labels, mean, std, size, layout, task, activation, fit, crop_ratio, interpolation)
    if all(value is None for value in values):
        return None
    problems: list[Problem] = []
    means = _channels("--mean", mean, problems)
    stds = _channels("--std", std, problems)
    if stds and min(stds) <= 0:
        problems.append(Problem("option.std", f"--std {std}: expected numbers above 0"))
    sides = _sides(size, problems)
    layout_choice = _choice("--layout", layout and layout.upper(), get_args(Layout), problems)
    task_choice = _choice("--task", task, get_args(ForeignTask), problems)
    activation_choice = _choice("--activation", activation, get_args(Activation), problems)
    fit_choice = _choice("--fit", fit, get_args(Fit), problems)
    interpolation_choice = _choice("--interpolation", interpolation, get_args(Interpolation), problems)
    if crop_ratio is not None and not 0 < crop_ratio <= 1:
        problems.append(
            Problem("option.crop_ratio", f"--crop-ratio {crop_ratio:g}: expected a number above 0, up to 1")
        )
    if crop_ratio is not None and fit in ("pad", "squash"):
        problems.append(
            Problem(
                "option.crop_ratio_unused", f"--crop-ratio: --fit {fit} keeps the whole image; leave the option out"
            )
        )
    if labels is not None and not labels.is_file():
        problems.append(Problem("option.labels_missing", f"--labels {labels}: no such file; expected one label a line"))
    if task_choice == "embedding" and labels is not None:
        problems.append(Problem("option.labels_unused", "--labels: an embedding has no labels; leave the option out"))
    if problems:
        raise InputError("; ".join(map(str, problems)), code="option.invalid", problems=problems)
    return ForeignModelOptions(
        model=model,
        labels=labels,
        mean=means,
        std=stds,
        size=sides,
        layout=layout_choice,
        task=task_choice,
        activation=activation_choice,
        fit=fit_choice,
        crop_ratio=crop_ratio,
        interpolation=interpolation_choice,
    )


def _channels(option: str, text: str | None, problems: list[Problem]) -> Channels | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        problems.append(
            Problem("option.channels", f"{option} {text}: expected three numbers, such as 0.485,0.456,0.406")
        )
        return None
    if not all(map(math.isfinite, (red, green, blue))) or max(red, green, blue) > 2:
        problems.append(
            Problem("option.pixel_scale", f"{option} {text}: expected values for pixels in 0..1, divide them by 255")
        )
    return red, green, blue


def _sides(text: str | None, problems: list[Problem]) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 1 <= int(part) <= MAX_SIDE for part in parts):
        problems.append(Problem("option.size", f"--size {text}: expected N or HEIGHTxWIDTH, each in 1..{MAX_SIDE}"))
        return None
    return int(parts[0]), int(parts[-1])


def _choice(option: str, text: str | None, choices: tuple[Choice, ...], problems: list[Problem]) -> Choice | None:
    for choice in choices:
        if text == choice:
            return choice
    if text is not None:
        problems.append(Problem("option.unknown_choice", f"{option} {text}: expected {', '.join(choices)}"))
    return None
