"""Write a package: one version of a model, with all that Triton needs to serve it.

The same content gives the same bytes: entries are sorted, not compressed, and without times.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import stat
import zipfile
from pathlib import Path
from typing import IO

from builder.packages.content import check_content, check_verdict, spec_of
from builder.packages.files import link_or_copy, link_shared_files, link_tree, scratch_folder
from builder.packages.package import VERSION, Package, PackagedVerdict
from builder.repository.encoded import has_encoded, update_companions
from builder.repository.publish import CompanionModels
from builder.repository.shared_files import shared_files_for, shared_version
from builder.repository.versions import version_folder
from tritonkit.errors import InputError
from tritonkit.repository.artifact_files import MARK_FILE, SIGNATURE_FILE
from tritonkit.repository.manifest import FileEntry
from tritonkit.system.files import atomic_write, file_sha256
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import companions_of
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    LAST_VERSION,
    config_to_text,
    is_published,
    read_config,
)

_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date of a zip entry."""


def write_package(model_folder: Path, version: int, output: Path) -> Path:
    """Write one version of a published model as a package, and return its path.

    output: the file, or a folder, in which it is named NAME-VERSION.zip. The package has the decoder and the ensemble
    for encoded images where the model has them, and the members of a pipeline.

    Raises InputError for an unknown version, ArtifactError where files are missing or were changed, CheckFailedError
    where the verdict failed; a forced one can be packaged, and `builder install` asks for --force.
    """
    if not is_published(model_folder):
        raise InputError(
            f"{model_folder}: was not published by `builder`, so it has no verdict; export it first",
            code="package.not_published",
        )
    path = output / f"{model_folder.name}-{version}.zip" if output.is_dir() else output
    with scratch_folder(path) as scratch:
        root = scratch / "content"
        _stage(model_folder, version, root, scratch)
        package = write_package_file(root, model_folder.name)
        check_content(root, package, force=True)
        zip_package(root, package, path)
    return path


def write_package_file(root: Path, name: str) -> Package:
    """Write `package.json` for an unpacked package, and return its content."""
    verdict = check_verdict(root / name / VERSION, force=True)
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    paths.pop(f"{name}/{Package.FILE}", None)
    package = Package(
        name=name,
        models=tuple(sorted(path.name for path in root.iterdir())),
        files={key: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size) for key, path in paths.items()},
        tritonkit=importlib.metadata.version("tritonkit"),
        verdict=PackagedVerdict(state=verdict.state, **verdict.model_dump(include={*PackagedVerdict.model_fields})),
        signed=(root / name / VERSION / SIGNATURE_FILE).is_file(),
    )
    package.write(root / name)
    return package


def zip_package(root: Path, package: Package, path: Path) -> None:
    """Write an unpacked package as a zip file, atomically."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in (package.path, *sorted(package.files)):
            with (root / name).open("rb") as content:
                add_entry(archive, name, content, (root / name).stat().st_size)


def add_entry(archive: zipfile.ZipFile, name: str, content: IO[bytes], size: int) -> None:
    """Add a file of `size` bytes to a package: the same content always gives the same bytes."""
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix
    info.file_size = size  # tells zipfile whether it needs 64-bit sizes
    with archive.open(info, "w") as entry:
        shutil.copyfileobj(content, entry, 2**20)


def _stage(model: Path, number: int, root: Path, scratch: Path) -> None:
    """Link a version of a model into a package's folder as version 1, with its companions and members."""
    repository, folder, staged = model.parent, version_folder(model, number), root / model.name
    if staged.exists():
        return
    link_tree(folder, staged / VERSION, MARK_FILE)
    link_shared_files(model, staged)
    link_or_copy(model / CONFIG_FILE, staged / CONFIG_FILE)
    encoded, is_shared = has_encoded(repository, model.name), shared_version(model) == number
    if not is_shared:  # the configuration, labels and warm-up of the model are those of another version
        shared_files_for(model, number).write(staged)
    write_config(staged, packaged_config(read_config(staged)))
    for name in companions_of(model.name) if encoded else ():
        link_tree(repository / name, root / name)
    if encoded and not is_shared:
        companions = CompanionModels(root, scratch)
        update_companions(companions, root, read_config(staged))
        with companions.apply_around(staged):
            pass
    for member in getattr(getattr(spec_of(folder), "pipeline", None), "members", ()):
        _stage(repository / member.model, member.version, root, scratch)


def packaged_config(config: ModelConfig, version: int = 1, policy: ModelConfig | None = None) -> ModelConfig:
    """A configuration for another repository. policy: the configuration that has its version policy; None: newest."""
    changed = type(config)()
    changed.CopyFrom(config)
    changed.ClearField("version_policy")
    if policy is not None and policy.HasField("version_policy"):
        changed.version_policy.CopyFrom(policy.version_policy)
    changed.parameters[LAST_VERSION].string_value = str(version)
    return changed


def write_config(model: Path, config: ModelConfig) -> None:
    """Replace the configuration of a model's folder."""
    with atomic_write(model / CONFIG_FILE) as temporary:
        temporary.write_text(config_to_text(config), encoding="utf-8")
