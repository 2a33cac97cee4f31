"""The formats there are, by the name of their option."""

from __future__ import annotations

from builder.formats.base import Format, Job
from builder.formats.onnx import Onnx
from builder.formats.openvino import OpenVino
from builder.formats.tensorrt import Rtx, Trt
from builder.formats.torchscript import TorchScript
from builder.targets import FormatName, ProgressCallback
from model.build_record import BuildOptions

__all__ = ["FORMATS", "Format", "Job", "ProgressCallback", "format_for"]

FORMATS: dict[FormatName, Format] = {kind.name: kind for kind in (Onnx(), OpenVino(), TorchScript(), Trt(), Rtx())}
"""As they are where nothing more is asked."""


def format_for(name: FormatName, build: BuildOptions | None = None, image: str | None = None) -> Format:
    """The format, with how its plans are built, and in which container."""
    if name == "trt":
        return Trt(build, image)
    if name == "rtx":
        return Rtx(build)
    return FORMATS[name]
