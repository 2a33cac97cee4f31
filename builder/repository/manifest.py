"""`manifest.json`: what a published version consists of and what made it."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from builder.tensorrt.settings import BuildRecord
from model.errors import ArtifactError
from model.files import sha256_of
from model.plans import BUILD_FILE
from model.spec import Frozen

MANIFEST_FILE = "manifest.json"
IMAGE_TAG = "26.06-py3"
"""The oldest release of NVIDIA's Triton image a repository is meant for."""
_TOOLS = ("tritonkit", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "tritonclient")


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
    triton_image: str = IMAGE_TAG
    tensorrt: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    """Where a plan is for several GPUs, with commas between."""
    build: BuildRecord | None = None
    """Of a version with a plan or an engine, from `build.json`."""


def manifest_of(folder: Path, source: Path, description: str) -> Manifest:
    """Hash every file in a version folder and note the tools of this environment."""
    files = {
        path.name: FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }
    build = record_in(folder)
    return Manifest(
        files=files,
        created=datetime.now(UTC),
        tools=_tool_versions(),
        python=platform.python_version(),
        source=description,
        source_sha256=sha256_of(source),
        tensorrt=build.tensorrt if build else None,
        gpu=build.gpu if build else None,
        compute_capability=(", ".join(build.compute_capabilities) or None) if build else None,
        build=build,
        **({"triton_image": build.image.rpartition(":")[2]} if build and build.image else {}),
    )


def record_in(folder: Path) -> BuildRecord | None:
    """The record of the build in a version folder, None without one. Raises ArtifactError for a broken one."""
    path = folder / BUILD_FILE
    if not path.is_file():
        return None
    try:
        return BuildRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path}: not the record of a build; export the model again ({error})") from error


def _tool_versions() -> dict[str, str]:
    found = {}
    for tool in _TOOLS:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
