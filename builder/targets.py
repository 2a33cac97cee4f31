"""What a model can be exported to: a format, and a precision it has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from model.errors import InputError
from model.spec import Frozen

Precision = Literal["fp32", "fp16", "bf16", "int8"]
FormatName = Literal["onnx", "torchscript", "openvino", "trt", "rtx"]

PRECISIONS: dict[FormatName, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "torchscript": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
    "trt": ("fp32", "fp16", "bf16", "int8"),
    "rtx": ("fp32", "fp16", "int8"),
}

ProgressCallback = Callable[[str], None]
"""Told of each step as it begins."""
Dialect = Literal["onnxruntime", "tensorrt"]
"""Which quantised graphs a format takes: U8S8 with an int32 bias, or symmetric S8S8 without."""


class Target(Frozen):
    """A format in a precision."""

    format: FormatName = "onnx"
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"


def target_from(asked: dict[FormatName, str | None]) -> Target:
    """The one format asked for, ONNX fp32 where none was. Raises InputError for two, or an unknown precision."""
    named = {name: precision for name, precision in asked.items() if precision is not None}
    if len(named) > 1:
        options = " and ".join(f"--{name}" for name in named)
        raise InputError(f"{options}: one format at a time; export again for the other, as a version or another --name")
    for name, given in named.items():
        for precision in PRECISIONS[name]:
            if given == precision:
                return Target(format=name, precision=precision)
        raise InputError(f"--{name} {given}: expected {', '.join(PRECISIONS[name])}")
    return Target()
