"""The request of `builder optimize`: the command line and Python build it. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SkipValidation

from builder.request import ExportRequest
from tritonkit.export_options import ForeignModelOptions, HtmlPage, OutputOptions, VerdictOptions, VersionOptions
from tritonkit.options import CommandLine, InputPath, option_error, options_from
from tritonkit.repository.optimization import Goal
from tritonkit.runtimes.formats import ONNX, Target, format_named, model_formats

if TYPE_CHECKING:
    from builder.sources.base import Source
else:
    Source = Any  # importing it loads torch

RuntimeName = Literal["pip", "docker"]


def _split(value: Any) -> Any:
    """Split texts at commas: an option may be repeated, or list several formats."""
    texts = [value] if isinstance(value, str) else value
    return (
        [part.strip() for text in texts for part in str(text).split(",")] if isinstance(texts, list | tuple) else value
    )


def _format(text: str) -> str:
    """Check NAME or NAME:PRECISION."""
    name, colon, precision = text.partition(":")
    try:
        record = format_named(name)
    except ValueError as error:
        raise option_error(str(error), code="option.unknown_format") from None
    if not record.backend:
        raise option_error(f"no Triton backend serves {name}", code="option.format_not_served")
    if colon and precision not in record.precisions:
        raise option_error(f"{name}: expected {', '.join(record.precisions)}", code="option.precision")
    return text


class OptimizeRequest(ForeignModelOptions, VerdictOptions, OutputOptions, VersionOptions):
    """Which model to optimize, for what, and which formats to try."""

    panel = None

    source: str | Path | SkipValidation[Source]
    """A checkpoint, third-party weights, a .onnx file, timm:NAME or torchvision:NAME."""
    target: Annotated[Goal, CommandLine("--target")]
    """throughput: most images per second; latency: the lowest p50 of one request in flight."""
    p99_ms: Annotated[float, Field(gt=0)] | None = None
    """Choose only among those whose p99 does not exceed this."""
    formats: Annotated[
        tuple[Annotated[str, AfterValidator(_format)], ...],
        BeforeValidator(_split),
        CommandLine(metavar="NAME[:PRECISION],..."),
    ] = ()
    """Formats to try, such as onnx,openvino:bf16; default: all that run here."""
    calibration: InputPath | None = None
    """Images to calibrate int8 on; default: those of the verdict."""
    runtime: RuntimeName = "pip"
    """How `server up` runs Triton; TensorRT plans need docker."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Measurements of each candidate, in turns."""
    window_s: Annotated[float, Field(ge=0.1)] = 0.5
    """Seconds of one window of `bench run`."""
    html: Annotated[HtmlPage | None, CommandLine(metavar="FILE.html")] = None
    """Write a page with all candidates: speed, error and size."""

    def targets(self, has_gpu: bool) -> list[Target]:
        """The formats and precisions to try: those that `formats` names, and all of its formats that run here.

        has_gpu: whether the machine has an NVIDIA GPU.
        """
        named = [text.partition(":") for text in self.formats]
        return [
            target
            for record in model_formats()
            for precision in record.precisions
            if (target := Target(format=record.name, precision=precision))
            and (
                (record.name, ":", precision) in named
                or ((not named or (record.name, "", "") in named) and _runs(target, has_gpu, self.runtime))
            )
        ]

    def export_request(self, target: Target | None = None) -> ExportRequest:
        """The export of one candidate. Raises InputError for a format and precision that cannot be exported."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in ExportRequest.model_fields}
        if target is not None:
            values |= {"format": f"{target.format}:{target.precision}", "strict": True}
        if target is None or target.precision == "fp32" or (target.precision == "bf16" and not target.record.casts):
            del values["calibration"]
        return options_from(ExportRequest, values)


def _runs(target: Target, has_gpu: bool, runtime: RuntimeName) -> bool:
    """Whether this machine can serve a target, and the backend computes in its precision."""
    record = target.record
    if not record.backend or not ("cpu" in record.runs_on or has_gpu):
        return False
    if record.flavour is not None:  # the pip runtime has no TensorRT
        return runtime == "docker"
    # ONNX Runtime computes fp16 in fp32 on a CPU, and has no bf16 kernels for most operators.
    return record is not ONNX or target.precision in ("fp32", "int8") or (target.precision == "fp16" and has_gpu)
