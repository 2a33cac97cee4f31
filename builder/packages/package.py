"""`package.json`: what a package contains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from tritonkit.errors import ArtifactError
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.manifest import FileEntry
from tritonkit.spec import Frozen, Name

VERSION = "1"
"""The version folder of every model in a package."""
MAX_ENTRIES = 10_000
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows."""


class PackagedVerdict(Frozen):
    """The verdict of the model in short."""

    state: str
    format: str
    precision: str
    images: str
    max_batch: int


class Package(RepositoryFile):
    """The content of `NAME/package.json`."""

    FILE: ClassVar[str] = "package.json"

    name: Name
    """The model; its folder contains this file."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    """All models in the package: the model, those that take encoded images for it, and the members of a pipeline."""
    files: Annotated[dict[str, FileEntry], Field(max_length=MAX_ENTRIES)]
    """Each file except this one, by its path in the package."""
    tritonkit: str
    """The version that wrote the package."""
    verdict: PackagedVerdict
    signed: bool = False
    """A claim only: `builder install --require-signed` checks it."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a package whose description cannot be read."""
        return ArtifactError(f"{path}: cannot be read ({reason}); package the model again", code="package.metadata")

    @property
    def path(self) -> str:
        """The path of this file in the package."""
        return f"{self.name}/{self.FILE}"

    @property
    def bytes(self) -> int:
        """The size of all files, unpacked."""
        return sum(entry.bytes for entry in self.files.values())


def is_safe_path(path: str) -> bool:
    """Whether a path in a package stays in its folder on every system: 2 to 4 plain names, with slashes between."""
    parts = path.split("/")
    return 2 <= len(parts) <= 4 and all(_PART.fullmatch(part) and not _DEVICE.fullmatch(part) for part in parts)
