"""Options that mean nothing for what is exported: told, and not left unread. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from builder.targets import Target

_CASTING = ("onnx", "trt", "rtx")
"""Formats whose precision stands in the graph."""


class _Rule(NamedTuple):
    """What an option needs beside it to mean anything."""

    option: str
    applies: Callable[[Target, Mapping[str, Any]], bool]
    advice: str


def _reduces(target: Target, words: Mapping[str, Any]) -> bool:
    return target.precision == "int8" or _casts(target, words)


def _casts(target: Target, words: Mapping[str, Any]) -> bool:
    return target.precision != "fp32" and target.format in _CASTING


_REDUCED = "is for a graph that is reduced; give --onnx, --trt or --rtx in fp16, bf16 or int8, or --openvino int8"
_RULES = (
    _Rule(
        "opt_batch",
        lambda target, words: target.format in ("trt", "rtx"),
        "is for plans; give --trt or --rtx and a precision",
    ),
    _Rule("keep_fp32", _reduces, _REDUCED),
    _Rule("calibration", _reduces, _REDUCED),
    _Rule(
        "converter",
        lambda target, words: words["converter"] == "edges" or _casts(target, words),
        "places casts; give --onnx, --trt or --rtx in fp16, bf16 or int8",
    ),
    _Rule(
        "strict",
        lambda target, words: not words["force"],
        "publishes nothing but what passes; leave out --force",
    ),
    _Rule(
        "masks",
        lambda target, words: words["data"] is not None,
        "are the masks of labelled pictures; give those with --data",
    ),
)


def unused_options(target: Target, words: Mapping[str, Any]) -> list[str]:
    """A sentence for each option that was given and that nothing would read.

    words: the options of `builder export` by name; None, False and an empty list are not given.
    """
    return [
        f"--{rule.option.replace('_', '-')}: {rule.advice}"
        for rule in _RULES
        if words[rule.option] and not rule.applies(target, words)
    ]
