"""Packages that were changed on purpose."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tritonkit.repository.artifact_files import artifact_sha256
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.repository.verdict import Verdict

Contents = dict[str, bytes]
"""The files of a package by path."""


def contents(package: Path) -> Contents:
    """Read all files of a package."""
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def entry_of(data: bytes) -> FileEntry:
    """Hash and size, as a manifest and a package list them."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def rehash(files: Contents, version: str = "pets/1") -> Contents:
    """Renew the manifest of a version, as somebody who changes a file would."""
    manifest = Manifest.model_validate_json(files[f"{version}/manifest.json"])
    listed = {name: entry_of(files[f"{version}/{name}"]) for name in manifest.files if f"{version}/{name}" in files}
    renewed = manifest.model_copy(update={"files": listed}).model_dump_json(indent=2).encode()
    return {**files, f"{version}/manifest.json": renewed}


def with_code(files: Contents) -> Contents:
    """Add Python code to `pets` as if it had been exported with it: verdict and manifest fit."""
    files = {**files, "pets/1/more.py": b"import os\n"}
    verdict = Verdict.model_validate_json(files["pets/1/verdict.json"])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.onnx", "more.py"):
            (Path(folder) / name).write_bytes(files[f"pets/1/{name}"])
        digest = artifact_sha256(Path(folder).iterdir())
    files["pets/1/verdict.json"] = verdict.model_copy(update={"artifact_sha256": digest}).model_dump_json().encode()
    manifest = Manifest.model_validate_json(files["pets/1/manifest.json"])
    listed = {**manifest.files, "more.py": entry_of(b"")}
    files["pets/1/manifest.json"] = manifest.model_copy(update={"files": listed}).model_dump_json().encode()
    return rehash(files)


def write(path: Path, files: Mapping[str, bytes], relist: bool = True, method: int = zipfile.ZIP_STORED) -> Path:
    """Write a package with these files. relist: renew its package.json too."""
    entries = dict(files)
    described = next((name for name in entries if name.endswith("/package.json")), None)
    if relist and described is not None:
        document = json.loads(entries.pop(described))
        document["files"] = {name: entry_of(data).model_dump() for name, data in entries.items()}
        entries = {described: json.dumps(document).encode(), **entries}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name) if method == zipfile.ZIP_STORED else name, data)
    return path


def flip(data: bytes, position: float = 0.5) -> bytes:
    """Flip one bit, at a share of the length."""
    at = int(len(data) * position)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
