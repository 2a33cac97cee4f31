"""Packages that were changed on purpose."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tritonkit.repository.manifest import FileEntry, Manifest

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
