"""`manifest.json`: files, tools and target of a published version. `builder` writes it, `server` reads it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import ClassVar

from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.file import RepositoryFile
from tritonkit.spec import Frozen
from tritonkit.triton.releases import IMAGE_TAG


class FileEntry(Frozen):
    """Hash and size of a file in the version folder."""

    sha256: str
    bytes: int


class Manifest(RepositoryFile):
    """Files, tools and target of a version. The GPU and TensorRT fields belong to a plan."""

    FILE: ClassVar[str] = "manifest.json"

    files: dict[str, FileEntry]
    created: datetime
    tools: dict[str, str]
    python: str
    source: str
    source_sha256: str
    source_path: Path | None = None
    """Path of the source on the machine of the export."""
    triton_image: str = IMAGE_TAG
    tensorrt: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    """Separated by commas if a plan is for several GPUs."""
    build: BuildRecord | None = None
    """The content of `build.json`, for a version with a plan or an engine."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a manifest that cannot be read."""
        return ArtifactError(
            f"{path}: cannot be read ({reason}); export the model again", code="repository.unreadable_manifest"
        )
