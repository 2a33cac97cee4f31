"""`manifest.json`: files, tools and target of a published version. `builder` writes it, `server` reads it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE
from tritonkit.spec import Frozen
from tritonkit.triton.releases import IMAGE_TAG

MANIFEST_FILE = "manifest.json"


class FileEntry(Frozen):
    """Hash and size of a file in the version folder."""

    sha256: str
    bytes: int


class Manifest(Frozen):
    """Files, tools and target of a version. The GPU and TensorRT fields belong to a plan."""

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


def read_build_record(folder: Path) -> BuildRecord | None:
    """Read the build record of a version folder, None if absent. Raises ArtifactError for an invalid one."""
    path = folder / BUILD_FILE
    if not path.is_file():
        return None
    try:
        return BuildRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: not a build record; export the model again ({error})", code="build.record"
        ) from error
