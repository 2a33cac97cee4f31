"""Create the manifest of a version: the hash of every file, and the versions of the tools."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.system.files import file_sha256

_TOOLS = ("tritonkit", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow", "tritonclient")


def manifest_of(folder: Path, source: Path, description: str) -> Manifest:
    """Hash every file in a version folder and record the tool versions of this environment."""
    files = {
        path.name: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != Manifest.FILE
    }
    tools = {}
    for tool in _TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[tool] = importlib.metadata.version(tool)
    build = BuildRecord.read(folder)
    return Manifest(
        files=files,
        created=datetime.now(UTC),
        tools=tools,
        python=platform.python_version(),
        source=description,
        source_sha256=file_sha256(source),
        source_path=source.resolve(),
        tensorrt=build.tensorrt if build else None,
        gpu=build.gpu if build else None,
        compute_capability=(", ".join(build.compute_capabilities) or None) if build else None,
        build=build,
        **({"triton_image": build.image.rpartition(":")[2]} if build and build.image else {}),
    )
