"""The layer of an OCI image with a package: a tar file that unpacks to `/models/MODEL/…`, and the way back."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from builder.packages.archive import open_archive
from builder.packages.writing import add_entry
from tritonkit.errors import ArtifactError

_FOLDER = "models/"
"""Where KServe expects a model in an image."""


def write_layer(package: Path, layer: Path) -> None:
    """Write the files of a package as a layer, in their order. Raises InputError, ArtifactError for another file."""
    with open_archive(package), zipfile.ZipFile(package) as archive, tarfile.open(layer, "w") as tar:
        for entry in archive.infolist():
            info = tarfile.TarInfo(f"{_FOLDER}{entry.filename}")
            info.size, info.mode = entry.file_size, 0o644
            with archive.open(entry) as content:
                tar.addfile(info, content)


def restore_package(layer: Path, package: Path) -> None:
    """Write the package that a layer was made from, byte for byte. Raises ArtifactError for a file that is no layer."""
    try:
        with tarfile.open(layer, "r:") as tar, zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as archive:
            for member in tar:
                if (content := tar.extractfile(member)) is not None:
                    add_entry(archive, member.name.removeprefix(_FOLDER), content, member.size)
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{layer.name}: the layer of this image is not one that `builder push` wrote ({error})", code="store.record"
        ) from error
