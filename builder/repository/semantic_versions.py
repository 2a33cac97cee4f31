"""The table of a model that maps semantic versions to Triton's: `versions.json` in the model's folder.

Triton counts the versions of a model with whole numbers, and each repository counts for itself. Stores know semantic
versions. The table is the only place that has both.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from builder.repository.publish import staging
from builder.semantic import SemanticVersion
from tritonkit.errors import ArtifactError, InputError
from tritonkit.repository.file import RepositoryFile
from tritonkit.spec import Frozen


class NumberedVersion(Frozen):
    """A semantic version in a repository."""

    number: int
    """The version of Triton."""
    sha256: str
    """The digest of its package."""


class SemanticVersions(RepositoryFile):
    """The content of `versions.json`."""

    FILE: ClassVar[str] = "versions.json"
    versions: dict[str, NumberedVersion] = {}
    """By semantic version."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the table of a model, without versions that were deleted; empty without a file. Raises ArtifactError."""
        table = cls.read(folder) or cls()
        present = {key: entry for key, entry in table.versions.items() if (folder / str(entry.number)).is_dir()}
        return cls(versions=present)

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a table that cannot be read."""
        return ArtifactError(
            f"{path}: cannot be read ({reason}); delete it, then push or pull the versions again",
            code="repository.semantic_versions",
        )

    def names_of(self, number: int) -> tuple[str, ...]:
        """The semantic versions of one of Triton's, oldest first."""
        names = (key for key, entry in self.versions.items() if entry.number == number)
        return tuple(sorted(names, key=SemanticVersion))

    def number_of(self, version: str, folder: Path) -> int:
        """The version of Triton. Raises InputError where the table does not have the semantic version."""
        if version not in self.versions:
            known = ", ".join(sorted(self.versions, key=SemanticVersion)) or "none"
            raise InputError(
                f"{folder.name}: has no semantic version {version}; it has {known}; get it with: builder pull STORE "
                f"{folder.name}@{version} --install",
                code="repository.unknown_version",
            )
        return self.versions[version].number

    def check(self, version: str, folder: Path, *, sha256: str | None = None, number: int | None = None) -> None:
        """Raise InputError if the semantic version is another version of Triton, or another package."""
        entry = self.versions.get(version)
        if entry is not None and (sha256 not in (None, entry.sha256) or number not in (None, entry.number)):
            raise InputError(
                f"{folder.name} {version}: is version {entry.number} in {folder.parent} already, with the package "
                f"SHA-256 {entry.sha256:.12}…; a version never changes: choose another one",
                code="repository.semantic_version_taken",
            )


def record_version(folder: Path, version: str, number: int, sha256: str) -> None:
    """Add a semantic version to the table of a model. Raises InputError if it is another version already."""
    with staging(folder.parent):
        table = SemanticVersions.of(folder)
        table.check(version, folder, number=number)
        added = {version: NumberedVersion(number=number, sha256=sha256)}
        SemanticVersions(versions={**table.versions, **added}).write(folder)
