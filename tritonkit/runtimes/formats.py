"""The targets of an export: a format and a precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tritonkit.errors import InputError
from tritonkit.spec import Frozen

ReducedType = Literal["fp16", "bf16"]


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
"""Called with a sentence when a step starts."""
Dialect = Literal["onnxruntime", "tensorrt"]
"""The quantised graphs of a format: U8S8 with an int32 bias, or symmetric S8S8 without a quantised bias."""


class Target(Frozen):
    """A format and a precision."""

    format: FormatName = "onnx"
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"


def target_from(options: dict[FormatName, str | None]) -> Target:
    """The requested target; ONNX fp32 by default. Raises InputError for two formats, or an unknown precision.

    options: the precision by format; None for a format that is not requested.
    """
    requested = {name: precision for name, precision in options.items() if precision is not None}
    if len(requested) > 1:
        names = " and ".join(f"--{name}" for name in requested)
        raise InputError(
            f"{names}: one format at a time; export the other one as another version or with another --name",
            code="option.two_formats",
        )
    for name, text in requested.items():
        for precision in PRECISIONS[name]:
            if text == precision:
                return Target(format=name, precision=precision)
        raise InputError(f"--{name} {text}: expected {', '.join(PRECISIONS[name])}", code="option.precision")
    return Target()
