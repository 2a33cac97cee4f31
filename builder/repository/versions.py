"""The versions of a published model: artifact and verdict of each, whether it is marked, and whether it is served."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from builder.repository.publish import staging
from builder.repository.semantic_versions import SemanticVersions
from tritonkit.errors import ArtifactError, InputError
from tritonkit.repository.artifact_files import MARK_FILE
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.spec import Frozen
from tritonkit.triton.companions import without_encoded
from tritonkit.triton.model_config import CONFIG_FILE, policy_text, read_config, versions_loaded, versions_of


class Mark(RepositoryFile):
    """The content of `mark.json`, which protects a version from deletion; no other file changes with it."""

    FILE: ClassVar[str] = MARK_FILE
    note: str = ""
    marked: datetime

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a mark that cannot be read: it may protect the version."""
        return ArtifactError(
            f"{path}: the mark cannot be read ({reason}); delete it, or mark the version again", code="repository.mark"
        )


class Version(Frozen):
    """One version of a published model."""

    version: int
    semantic: tuple[str, ...] = ()
    """The semantic versions under which it was pushed to or pulled from a store."""
    created: datetime | None = None
    format: str | None = None
    precision: str | None = None
    verdict: Literal["passed", "FORCED", "FAILED", "none"]
    bytes: int
    mark: Mark | None = None
    served: bool
    """Whether the version policy of config.pbtxt loads the version."""


class Model(Frozen):
    """A published model and its versions, oldest first."""

    name: str
    folder: Path
    policy: str
    versions: tuple[Version, ...]


def find_model(model: str, repository: Path) -> Path:
    """Find the folder of a model by path or by name in a repository. Raises InputError where there is none."""
    for folder in (Path(model), repository / model):
        if (folder / CONFIG_FILE).is_file():
            return folder.resolve()
    names = without_encoded(path.parent.name for path in repository.glob(f"*/{CONFIG_FILE}"))
    raise InputError(
        f"{model}: no model of that name in {repository}; it has {', '.join(names) or 'none'}",
        code="repository.unknown_model",
    )


def model_versions(folder: Path) -> Model:
    """Read the versions in a model's folder. Raises ArtifactError for a broken configuration."""
    config = read_config(folder)
    numbers = versions_of(folder)
    served, semantic = versions_loaded(config, numbers), SemanticVersions.of(folder)
    versions = []
    for version in (VersionFolder(folder / str(number)) for number in numbers):
        manifest, verdict = version.manifest, version.verdict
        versions.append(
            Version(
                version=version.number,
                semantic=semantic.names_of(version.number),
                created=manifest and manifest.created,
                format=verdict and verdict.format,
                precision=verdict and verdict.precision,
                verdict="none" if verdict is None else verdict.state,
                bytes=sum(path.stat().st_size for path in version.path.rglob("*") if path.is_file()),
                mark=Mark.read(version.path),
                served=version.number in served,
            )
        )
    return Model(name=folder.name, folder=folder, policy=policy_text(config), versions=tuple(versions))


def mark(folder: Path, version: int, note: str = "") -> None:
    """Mark a version, so that it is never deleted. Raises InputError where the version does not exist."""
    with staging(folder.parent):
        Mark(note=note, marked=datetime.now(UTC)).write(version_folder(folder, version))


def unmark(folder: Path, version: int) -> None:
    """Remove the mark of a version, if it has one. Raises InputError where the version does not exist."""
    with staging(folder.parent):
        (version_folder(folder, version) / Mark.FILE).unlink(missing_ok=True)


def version_folder(folder: Path, version: int) -> Path:
    """The folder of a version. Raises InputError where the version does not exist."""
    if version not in (numbers := versions_of(folder)):
        raise InputError(
            f"{folder.name}: has no version {version}; it has {', '.join(map(str, numbers)) or 'none'}",
            code="repository.unknown_version",
        )
    return folder / str(version)
