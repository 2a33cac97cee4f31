"""Find options of `builder export` that have no effect on the target. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tritonkit.errors import Problem
from tritonkit.runtimes.formats import Target

_CASTING = ("onnx", "trt", "rtx")
"""Formats whose precision is that of the graph."""


class _Rule(NamedTuple):
    """When an option has an effect."""

    option: str
    applies: Callable[[Target, Mapping[str, Any]], bool]
    advice: str


def _reduces(target: Target, values: Mapping[str, Any]) -> bool:
    return target.precision == "int8" or (target.precision != "fp32" and target.format in _CASTING)


_REDUCED = "is for a reduced graph; use --onnx, --trt or --rtx in fp16, bf16 or int8, or --openvino int8"
_RULES = (
    _Rule(
        "opt_batch",
        lambda target, values: target.format in ("trt", "rtx"),
        "is for plans; add --trt or --rtx and a precision",
    ),
    _Rule("keep_fp32", _reduces, _REDUCED),
    _Rule("calibration", _reduces, _REDUCED),
    _Rule(
        "strict",
        lambda target, values: not values["force"],
        "publishes only what passes; leave out --force",
    ),
    _Rule(
        "masks",
        lambda target, values: values["data"] is not None,
        "are the masks of labelled images; add --data",
    ),
)


def unused_options(target: Target, values: Mapping[str, Any]) -> list[Problem]:
    """A problem for each option that is set and has no effect.

    values: the options of `builder export` by name; None, False and an empty list are not set.
    """
    return [
        Problem("option.no_effect", f"--{rule.option.replace('_', '-')}: {rule.advice}")
        for rule in _RULES
        if values[rule.option] and not rule.applies(target, values)
    ]
