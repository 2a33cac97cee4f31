"""All export formats, by the name of their option."""

from __future__ import annotations

from builder.formats.base import BuildJob, Format
from builder.formats.onnx import Onnx
from builder.formats.openvino import OpenVino
from builder.formats.tensorrt import Rtx, Trt
from builder.formats.torchscript import TorchScript
from tritonkit.repository.build_record import BuildOptions
from tritonkit.runtimes.formats import FormatName, ProgressCallback

__all__ = ["FORMATS", "BuildJob", "Format", "ProgressCallback", "format_for"]

FORMATS: dict[FormatName, Format] = {
    "onnx": Onnx(),
    "openvino": OpenVino(),
    "torchscript": TorchScript(),
    "trt": Trt(),
    "rtx": Rtx(),
}
"""The formats with default build options."""


def format_for(name: FormatName, build: BuildOptions | None = None, image: str | None = None) -> Format:
    """The format of that name, with its build options and the container image to build in."""
    if name == "trt":
        return Trt(build, image)
    if name == "rtx":
        return Rtx(build)
    return FORMATS[name]
