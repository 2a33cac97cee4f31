"""`pipeline.json`: how a published pipeline calls its two models. `builder pipeline` writes it, Triton reads it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import NonNegativeInt, PositiveInt

from tritonkit.errors import ArtifactError
from tritonkit.images.crops import CropSettings
from tritonkit.images.preprocess import Preprocess
from tritonkit.repository.file import RepositoryFile
from tritonkit.spec import Frozen, ModelSpec, PipelineSpec


class MemberSettings(Frozen):
    """A model that a pipeline calls, and how its images are prepared."""

    model: str
    preprocess: Preprocess
    max_batch: PositiveInt
    """The largest number of images that the pipeline sends at once."""


class PipelineSettings(RepositoryFile):
    """Everything that the code of a pipeline must know."""

    FILE: ClassVar[str] = "pipeline.json"

    segmenter: MemberSettings
    classifier: MemberSettings
    class_number: NonNegativeInt
    """The class of the segmenter whose regions are the objects."""
    labels: tuple[str, ...]
    """Of the classifier."""
    crop: CropSettings

    @classmethod
    def of(cls, pipeline: PipelineSpec, segmenter: ModelSpec, classifier: ModelSpec) -> Self:
        """Create the settings of a pipeline from the specs of its models. Raises ValueError for an unknown label."""
        first, second = pipeline.members
        return cls(
            segmenter=MemberSettings(model=first.model, preprocess=segmenter.preprocess, max_batch=1),
            classifier=MemberSettings(model=second.model, preprocess=classifier.preprocess, max_batch=second.max_batch),
            class_number=segmenter.labels.index(pipeline.label),
            labels=classifier.labels,
            crop=pipeline.crop,
        )

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for settings that cannot be read."""
        return ArtifactError(
            f"{path}: cannot be read ({reason}); publish the pipeline again", code="repository.unreadable_pipeline"
        )
