"""Read a package without trusting it: names, kinds, sizes and hashes are checked before and while it is unpacked."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.packages.package import MAX_ENTRIES, Package, is_safe_path
from tritonkit.errors import ArtifactError, InputError

MAX_RATIO = 20
"""Models hardly compress; `builder package` does not compress at all."""
_ALWAYS_ALLOWED = 64 * 2**20
"""Bytes that a package may unpack to, whatever its own size."""
_MAX_DIRECTORY = 4 * 2**20
"""The longest list of entries, and the longest package.json, in bytes."""
_CHUNK = 2**20
_ENCRYPTED = 1
"""The flag of an encrypted entry."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The dictionary of LZMA may need gigabytes of memory."""
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What `zipfile` raises for a damaged or unusual file."""


@dataclass(frozen=True)
class Archive:
    """An open package, whose names and sizes have been checked."""

    path: Path
    package: Package
    _zip: zipfile.ZipFile

    def unpack(self, folder: Path) -> None:
        """Write all files into an empty folder. Raises ArtifactError for a wrong hash or size."""
        for name, entry in self.package.files.items():
            target, digest, size = folder / name, hashlib.sha256(), 0
            target.parent.mkdir(parents=True, exist_ok=True)
            with _readable(self.path), self._zip.open(name) as content, target.open("xb") as output:
                # One byte more than declared shows a longer file; no more than that is ever unpacked.
                while chunk := content.read(min(_CHUNK, entry.bytes + 1 - size)):
                    size += len(chunk)
                    digest.update(chunk)
                    output.write(chunk)
            if size != entry.bytes or digest.hexdigest() != entry.sha256:
                raise ArtifactError(
                    f"{self.path}: {name} is damaged or was changed: its content is not that of {self.package.path}; "
                    "fetch the package again",
                    code="package.changed_file",
                )


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a package and check names, kinds and sizes of all entries; nothing is unpacked yet.

    Raises InputError for a missing file, ArtifactError for one that is not a package, or not a safe one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a package of `builder package`", code="package.not_found")
    with _BoundedFile(path) as file:
        with _readable(path):
            archive = _zip_file(file)
        with archive:
            infos = archive.infolist()
            _check_entries(path, infos)
            files = {info.filename: info for info in infos if not info.is_dir()}
            package = _read_package(path, archive, files)
            _check_sizes(path, package, files)
            yield Archive(path, package, archive)


class _BoundedFile(io.FileIO):
    """A file that refuses long reads: `zipfile` reads the whole list of entries at once, as long as the file says."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise ValueError(f"its list of entries has {size:,} bytes, more than {_MAX_DIRECTORY:,}")
        return super().read(_MAX_DIRECTORY if size is None or size < 0 else size) or b""


def _zip_file(file: io.FileIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except OSError as error:  # a damaged offset is a seek before the file
        raise ValueError(str(error)) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Translate the errors of `zipfile`."""
    try:
        yield
    except _FAULTS as error:
        raise ArtifactError(
            f"{path}: cannot be read as a zip file ({error}); fetch the package again, or write it with "
            "`builder package`",
            code="package.not_a_zip",
        ) from error


def _check_entries(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse names that leave the folder, names that are equal on some systems, links and other special files."""
    if len(infos) > MAX_ENTRIES:
        raise ArtifactError(f"{path}: has {len(infos)} entries, more than {MAX_ENTRIES}", code="package.too_large")
    seen: set[str] = set()
    for info in infos:
        is_folder = info.filename.endswith("/")
        name = info.orig_filename.removesuffix("/") if is_folder else info.orig_filename
        if not is_safe_path(f"{name}/x" if is_folder and "/" not in name else name):
            raise ArtifactError(
                f"{path}: entry {info.orig_filename!r:.200} is not a plain path NAME/…; nothing was unpacked",
                code="package.unsafe_path",
            )
        kind, plain = stat.S_IFMT(info.external_attr >> 16), stat.S_IFDIR if is_folder else stat.S_IFREG
        if kind not in (0, plain) or info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            raise ArtifactError(
                f"{path}: entry {name} is a link, a special file, encrypted, or compressed by another method than "
                "deflate; expected plain files",
                code="package.special_file",
            )
        if name.casefold() in seen:  # some file systems ignore the case
            raise ArtifactError(f"{path}: entry {name} occurs twice", code="package.duplicate")
        seen.add(name.casefold())


def _read_package(path: Path, archive: zipfile.ZipFile, files: dict[str, zipfile.ZipInfo]) -> Package:
    """Read `NAME/package.json`, which stands in exactly one folder of a package."""
    found = [info for name, info in files.items() if name.count("/") == 1 and name.endswith(f"/{Package.FILE}")]
    if len(found) != 1:
        raise ArtifactError(
            f"{path}: has {len(found) or 'no'} NAME/{Package.FILE}, so it is not a package; write one with "
            "`builder package`",
            code="package.metadata",
        )
    with _readable(path), archive.open(found[0]) as content:
        if len(text := content.read(_MAX_DIRECTORY + 1)) > _MAX_DIRECTORY:
            raise ValueError(f"{Package.FILE} has more than {_MAX_DIRECTORY:,} bytes")
    package = Package.parse(text, path / found[0].filename)
    if found[0].filename != package.path:
        raise ArtifactError(
            f"{path}: {found[0].filename} describes model {package.name}, not that of its folder",
            code="package.metadata",
        )
    return package


def _check_sizes(path: Path, package: Package, files: dict[str, zipfile.ZipInfo]) -> None:
    """Check that the package lists exactly its files with their sizes, and that it is no zip bomb."""
    listed = {*package.files, package.path}
    if differing := sorted(listed ^ files.keys()):
        raise ArtifactError(
            f"{path}: {package.path} and the files of the package differ: {', '.join(differing[:5])}",
            code="package.unlisted_file",
        )
    folders = {name.partition("/")[0] for name in files}
    if folders != set(package.models) or package.name not in folders:
        raise ArtifactError(
            f"{path}: has the models {', '.join(sorted(folders))}, but {package.path} lists "
            f"{', '.join(package.models)}",
            code="package.unlisted_file",
        )
    unpacked = sum(info.file_size for info in files.values())
    allowed = max(_ALWAYS_ALLOWED, MAX_RATIO * path.stat().st_size)
    if max(unpacked, package.bytes) > allowed:
        raise ArtifactError(
            f"{path}: would unpack to {max(unpacked, package.bytes):,} bytes, more than {allowed:,}: a model does not "
            "compress so well",
            code="package.too_large",
        )
    if wrong := [name for name, entry in package.files.items() if entry.bytes != files[name].file_size]:
        raise ArtifactError(
            f"{path}: {wrong[0]} has {files[wrong[0]].file_size:,} bytes, but {package.path} says "
            f"{package.files[wrong[0]].bytes:,}",
            code="package.changed_file",
        )
