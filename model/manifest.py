"""`manifest.json`: what a published version consists of and what made it. `builder` writes it, servers read it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from model.build_record import BuildRecord
from model.errors import ArtifactError
from model.plans import BUILD_FILE
from model.releases import IMAGE_TAG
from model.spec import Frozen

MANIFEST_FILE = "manifest.json"


class FileEntry(Frozen):
    """A file of the version folder."""

    sha256: str
    bytes: int


class Manifest(Frozen):
    """Hashes, tools and the target a version was made for. The GPU and TensorRT fields are those of a plan."""

    files: dict[str, FileEntry]
    created: datetime
    tools: dict[str, str]
    python: str
    source: str
    source_sha256: str
    source_path: Path | None = None
    """Where the source lay on the machine that exported it."""
    triton_image: str = IMAGE_TAG
    tensorrt: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    """Where a plan is for several GPUs, with commas between."""
    build: BuildRecord | None = None
    """Of a version with a plan or an engine, from `build.json`."""


def record_in(folder: Path) -> BuildRecord | None:
    """The record of the build in a version folder, None without one. Raises ArtifactError for a broken one."""
    path = folder / BUILD_FILE
    if not path.is_file():
        return None
    try:
        return BuildRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path}: not the record of a build; export the model again ({error})") from error
