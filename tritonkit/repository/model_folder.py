"""A model of a repository and its versions, as folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tritonkit.errors import InputError
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import is_plan
from tritonkit.triton.backends import ModelConfig, artifact_names, backend_of
from tritonkit.triton.companions import companion_owner
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    ENSEMBLE,
    completed_config,
    holds_model,
    is_published,
    versions_loaded,
    versions_of,
)


def find_models(repository: Path, names: Iterable[str] = ()) -> dict[str, Path]:
    """Return the model folders of a repository by name. Raises InputError if it, or one of these models, is missing."""
    if not repository.is_dir():
        raise not_a_repository_error(repository)
    present = sorted(path for path in repository.iterdir() if path.is_dir())
    folders = {folder.name: folder for folder in present if holds_model(folder)}
    if missing := [name for name in names if name not in folders]:
        raise InputError(
            f"{repository} has no model {', '.join(map(repr, missing))}; it has: {', '.join(folders) or 'none'}",
            code="repository.no_model",
        )
    return folders


def not_a_repository_error(folder: Path) -> InputError:
    """Create the error for a folder that is not a model repository."""
    return InputError(
        f"{folder}: is not a model repository; create one with `builder export`", code="repository.missing"
    )


@dataclass(frozen=True)
class VersionFolder:
    """The folder of one version."""

    path: Path

    @property
    def number(self) -> int:
        """The number of the version."""
        return int(self.path.name)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest; None where it is missing or cannot be read."""
        return Manifest.find(self.path)

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict; None where it is missing or cannot be read."""
        return Verdict.find(self.path)

    @property
    def plans(self) -> list[Path]:
        """The TensorRT plans and engines in the folder."""
        return sorted(path for path in self.path.iterdir() if is_plan(path) and path.is_file())


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one model, with its configuration as Triton completes it."""

    path: Path
    config: ModelConfig

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Read the configuration of a model's folder. Raises ArtifactError."""
        return cls(path, completed_config(path))

    @property
    def name(self) -> str:
        """The name in the repository."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The path of `config.pbtxt`."""
        return self.path / CONFIG_FILE

    @property
    def backend(self) -> str:
        """The backend; empty if the configuration leaves it to Triton."""
        return ENSEMBLE if self.is_ensemble else backend_of(self.config)

    @property
    def is_ensemble(self) -> bool:
        """Whether the model only calls others."""
        return bool(self.config.HasField("ensemble_scheduling"))

    @property
    def owner(self) -> str:
        """The model that this decoder or ensemble takes encoded images for; empty for other models."""
        return companion_owner(self.config)

    @property
    def is_published(self) -> bool:
        """Whether `builder` published it as a model of its own."""
        return is_published(self.path) and not self.is_ensemble and not self.owner

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else than `builder` wrote it."""
        return not (self.is_published or self.is_ensemble or self.owner)

    @property
    def files(self) -> list[str]:
        """The file names that the backend opens in a version folder; empty if unknown."""
        return artifact_names(self.config)

    @cached_property
    def versions(self) -> list[VersionFolder]:
        """All versions, oldest first."""
        return [VersionFolder(self.path / str(number)) for number in versions_of(self.path)]

    @cached_property
    def loaded_versions(self) -> list[VersionFolder]:
        """The versions that the version policy loads, oldest first."""
        loaded = versions_loaded(self.config, versions_of(self.path))
        return [version for version in self.versions if version.number in loaded]
