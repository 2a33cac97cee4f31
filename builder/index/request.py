"""The request of `builder index`: the command line and Python build it. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, SkipValidation, field_validator

from builder.request import ExportRequest
from tritonkit.export_options import PublicationOptions, ServingOptions, VerificationOptions
from tritonkit.options import CommandLine, InputPath, Options, option_error, options_from
from tritonkit.runtimes.formats import FAISS

if TYPE_CHECKING:
    from builder.sources.base import Source
else:
    Source = Any  # importing it loads torch

DEFAULT_NEIGHBORS = 10
DEFAULT_FALSE_ACCEPT = 0.05


class SearchOptions(Options):
    """How a gallery is searched, and when an image is unknown. None: as in the version that is extended."""

    panel: ClassVar[str | None] = "Search"

    add: bool = False
    """Add the images to the gallery that is served now."""
    neighbors: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of nearest images in an answer; default: 10, or all images of a smaller gallery."""
    false_accept: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of images of unknown classes that may be accepted; default: 0.05."""
    approximate: bool | None = None
    """Search with a FAISS index, not exactly; default: only if the gallery does not fit into an ONNX file."""
    held_out: InputPath | None = None
    """Images of classes that are not in the gallery, to choose the threshold on; default: its own, each left out."""


class IndexRequest(SearchOptions, VerificationOptions, ServingOptions, PublicationOptions):
    """Which embedder and which gallery to publish as one search model."""

    panel = None

    checkpoint: str | Path | SkipValidation[Source]
    """An embedding model: a checkpoint of `train`, or its ONNX file."""
    gallery: Annotated[InputPath, CommandLine(metavar="GALLERY")]
    """Labelled images: a folder of class folders, a CSV or JSON."""

    @field_validator("masks")
    @classmethod
    def _check_no_masks(cls, value: Path | str | None) -> Path | str | None:
        if value is not None:
            raise option_error("a search has no masks; leave the option out", code="option.no_effect")
        return value

    def export_request(self, source: Source, approximate: bool) -> ExportRequest:
        """The export of the search model. Raises InputError for options that contradict each other.

        approximate: whether a FAISS index searches.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name in ExportRequest.model_fields}
        if approximate:
            values["format"] = FAISS.name
        return options_from(ExportRequest, {**values, "source": source, "name": None})
