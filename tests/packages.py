"""Packages that were changed on purpose."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builder.packages import InstalledPackage, install_package
from builder.repository.lint import check_repository
from tritonkit.repository.artifact_files import artifact_sha256
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.repository.signing.check import check_signed
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.model_config import CONFIG_FILE, config_from_text, config_to_text

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


def install(path: Path, repository: Path, *, public_key: Path | None = None, **options: Any) -> InstalledPackage:
    """Install a package; whatever is accepted leaves a repository without errors, and signed if that was asked."""
    installed = install_package(path, repository, public_key=public_key, **options)
    assert [finding for finding in check_repository(repository) if finding.severity == "error"] == []
    if public_key is not None:
        assert installed.signed, installed.warnings
        check_signed(repository, (), public_key)
    return installed


def with_labels(read: Callable[[str], str], model: str = "pets") -> dict[str, str]:
    """The three files outside the version folder that name the classes, with the labels in reverse."""
    spec = ModelSpec.from_json(read(f"{model}/model.json"), model)
    other = spec.model_copy(update={"labels": spec.labels[::-1]})
    config = config_from_text(read(f"{model}/{CONFIG_FILE}"), model)
    config.parameters[METADATA_KEY].string_value = other.public().to_json()
    files = {CONFIG_FILE: config_to_text(config), ModelSpec.FILE: other.to_json(), **other.label_files}
    return {f"{model}/{name}": text for name, text in files.items()}
