"""The YAML of `builder pipeline`, and the options of the command. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonkit.errors import ConfigError, Problem
from tritonkit.export_options import RepositoryOptions
from tritonkit.images.crops import CropSettings
from tritonkit.options import CommandLine, InputPath
from tritonkit.spec import Name
from tritonkit.yaml_document import Document


class PipelineConfig(BaseModel):
    """Which published models become one, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """Of the pipeline."""
    segmenter: Name
    """A published segmentation model."""
    label: str | None = None
    """The class of the segmenter whose regions are the objects; default: its only class besides the background."""
    classifier: Name
    """A published multiclass model."""
    crop: CropSettings | None = None
    """How objects are cut out; default: as for the training of the classifier."""
    pictures: InputPath | None = None
    """A folder of pictures for the verdict; default: built-in photographs."""
    instances: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of requests that are answered at once."""

    @classmethod
    def read(cls, path: Path) -> PipelineConfig:
        """Read a YAML file. Raises ConfigError that lists all problems."""
        document = Document.read(path, "; docs/pipelines.md has an example")
        problems = list(document.duplicates)
        try:
            config = cls.model_validate(document.values)
        except ValidationError as error:
            problems += [document.describe(details, cls) for details in error.errors(include_url=False)]
        if problems:
            raise config_error(path, problems)
        return config


class PipelineRequest(RepositoryOptions):
    """Which pipeline to publish, and where."""

    config: Annotated[Path, CommandLine(metavar="CONFIG.yaml")]
    """Names the two models; docs/pipelines.md lists all keys."""
    runtime: Literal["pip", "docker"] = "pip"
    """How `server up` runs the Triton of the verdict."""
    force: bool = False
    """Publish even if the verdict fails; the verdict says so."""


def config_error(path: Path, problems: list[Problem]) -> ConfigError:
    """The error for all problems of a configuration."""
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"{path}: {len(problems)} problem(s):{lines}", code="config.invalid", problems=problems)
