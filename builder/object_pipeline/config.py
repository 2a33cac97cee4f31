"""The YAML of `builder pipeline`, and the options of the command. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonkit.errors import ConfigError, Problem
from tritonkit.export_options import RepositoryOptions
from tritonkit.images.crops import CropSettings
from tritonkit.options import CommandLine, InputPath
from tritonkit.spec import Name


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
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not a readable text file ({error})", code="config.unreadable") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {error}", code="config.not_yaml") from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path}: expected `key: value` pairs such as `name: people`, got {type(values).__name__}",
                code="config.not_a_mapping",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [
                _problem(details["loc"], details["type"], details["msg"], details["input"])
                for details in error.errors(include_url=False)
            ]
        raise config_error(path, problems)


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


def _problem(place: tuple[int | str, ...], kind: str, message: str, value: object) -> Problem:
    key = ".".join(map(str, place))
    match kind:
        case "missing":
            return Problem("config.missing_key", f"{key}: is required")
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = ", ".join(CropSettings.__dataclass_fields__ if len(place) > 1 else PipelineConfig.model_fields)
            return Problem("config.unknown_key", f"{key}: unknown key; known keys: {known}")
    text = message.removeprefix("Value error, ").replace("Input should be", "expected", 1)
    return Problem("config.value", f"{key}: {text} (got {value!r:.60})")
