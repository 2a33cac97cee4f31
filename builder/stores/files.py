"""A store in object storage or any other file system of fsspec: `s3://`, `gs://`, `az://`, `file://`.

Each version is a folder `NAME/VERSION/` with the package, `SHA256.zip`, and `version.json`, which is written last and
makes the version visible. It is created exclusively: S3 (`If-None-Match: *`), Google Cloud Storage
(`ifGenerationMatch=0`) and Azure (`If-None-Match: *`) let exactly one of two uploads win. Packages are named by their
content, so that two uploads never write one file.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from builder.stores.base import Advance, PackageFile, Store, StoredVersion, unconfirmed
from tritonkit.errors import InputError
from tritonkit.remotes.filesystems import error_of, fault_of, open_filesystem, translate_errors
from tritonkit.remotes.transfer import RemoteFile, Transfer

RECORD_FILE = "version.json"
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""They have no folders; to create one would create a bucket."""
_LOCAL = ("file", "local")


class FileStore(Store):
    """Packages in folders `NAME/VERSION` below the address."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        if not address.partition("://")[2].strip("/"):
            raise InputError(f"{address}: names no bucket or folder", code="store.address")
        self._files, self._root = open_filesystem(self.address)
        self._scheme = self.address.partition("://")[0].lower()

    def versions(self, name: str) -> list[str]:
        """Return the folders that have a record."""
        with translate_errors(self.address):
            records = self._files.glob(f"{self._root}/{name}/*/{RECORD_FILE}")
        return [str(path).split("/")[-2] for path in records]

    def find(self, name: str, version: str) -> StoredVersion | None:
        """Read the record of a version."""
        try:
            content = self._files.cat_file(f"{self._root}/{name}/{version}/{RECORD_FILE}")
        except Exception as error:  # each store's library has its own exceptions
            if fault_of(error) == "absent":
                return None
            raise error_of(error, self.address) from error
        place = f"{self.public_name}/{name}/{version}"
        try:
            record = {"sha256": "missing", **json.loads(content)}
        except (ValueError, TypeError):
            record = {"sha256": "unreadable"}
        return StoredVersion.read(name, version, record, f"{place}/{RECORD_FILE}")

    def upload(self, package: PackageFile, advance: Advance) -> StoredVersion:
        """Write the package, then create its record; where another upload was first, compare with that."""
        folder, file = f"{self._root}/{package.name}/{package.version}", f"{package.sha256}.zip"
        created = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"file": file, "sha256": package.sha256, "size": package.size, "created": created}
        with translate_errors(self.address):
            if self._scheme not in _OBJECT_STORES:
                self._files.makedirs(folder, exist_ok=True)
            self._write(package.path, f"{folder}/{file}")
        advance(package.size)
        try:
            self._create(f"{folder}/{RECORD_FILE}", json.dumps(record, indent=2).encode())
        except Exception as error:  # each store's library has its own exception for a file that exists
            if self.find(package.name, package.version) is None:
                raise error_of(error, self.address) from error
        stored = self.find(package.name, package.version)
        if stored is None:
            raise unconfirmed(self.public_name, package, "its record cannot be read back")
        if stored.sha256 != package.sha256:
            with suppress(Exception):  # the error below matters more
                self._files.rm_file(f"{folder}/{file}")
        return package.confirm(stored)

    def download(self, stored: StoredVersion, path: Path, advance: Advance) -> None:
        """Copy the package; a broken transfer continues."""
        remote = f"{self._root}/{stored.name}/{stored.version}/{stored.sha256}.zip"
        with translate_errors(self.address):
            source = RemoteFile.of(remote, self._files.info(remote))
        Transfer(self._files, self.address).copy(source, path, advance)

    def _write(self, path: Path, target: str) -> None:
        """Copy a local file. A killed process leaves none or a whole one: object stores show only whole files."""
        if self._scheme not in _LOCAL:
            self._files.put_file(str(path), target)
            return
        temporary = f"{target}.{uuid4().hex[:8]}.partial"
        self._files.put_file(str(path), temporary)
        os.replace(temporary, target)  # noqa: PTH105 - fsspec's paths are text

    def _create(self, target: str, content: bytes) -> None:
        """Create a file with its whole content, or raise an exception if it exists."""
        if self._scheme not in _LOCAL:
            self._files.pipe_file(target, content, mode="create")
            return
        temporary = f"{target}.{uuid4().hex[:8]}.partial"
        self._files.pipe_file(temporary, content)
        try:
            os.link(temporary, target)
        finally:
            os.unlink(temporary)  # noqa: PTH108 - as above
