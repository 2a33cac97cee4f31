"""The requests of `builder export` and `builder verify`: the command line and Python build them. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import SkipValidation, ValidationInfo, field_validator

from tritonkit.export_options import BatchSize, ExportOptions, ForeignModelOptions, OutputOptions, VerificationOptions
from tritonkit.options import CommandLine, InputPath, option_error

if TYPE_CHECKING:
    from builder.sources.base import Source
else:
    Source = Any  # importing it loads torch


class ExportRequest(ForeignModelOptions, ExportOptions):
    """What to export, in which format and precision, and where to.

    A wrong option raises pydantic's ValidationError; the `type` of an error is tritonkit's code where it has one.
    """

    panel = None

    source: str | Path | SkipValidation[Source]
    """A checkpoint, third-party weights, a .onnx file, timm:NAME or torchvision:NAME."""
    dry_run: Annotated[bool, CommandLine(panel=ExportOptions.panel_of("in_container"))] = False
    """With --in-container: print the Docker command, run nothing."""

    @field_validator("dry_run")
    @classmethod
    def _check_dry_run(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("in_container"):
            raise option_error("prints the command of `in_container`; add `in_container`", code="option.dry_run_unused")
        return value


class VerifyRequest(ForeignModelOptions, VerificationOptions, OutputOptions):
    """Which artifact to compare with which source."""

    panel = None

    artifact: InputPath
    """Any artifact: .onnx, .xml, .pt, .plan, .rtx."""
    against: Annotated[str | Path | SkipValidation[Source], CommandLine("--against")]
    """The checkpoint or other source to compare with."""
    max_batch: BatchSize | None = None
    """The largest batch to verify; default: the largest that the artifact accepts, or 32."""
