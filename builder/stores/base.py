"""What every store of packages does: list the versions of a name, upload a package, download one."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self, TypeVar

from pydantic import NonNegativeInt, StringConstraints, ValidationError

from builder.semantic import SemanticVersion
from tritonkit.errors import ArtifactError, ExternalError, InputError
from tritonkit.remotes.addresses import public_name, public_text
from tritonkit.spec import NAME_PATTERN, Frozen, validation_problems
from tritonkit.system.files import file_sha256

Advance = Callable[[int], None]
"""Called with the numbers of bytes that were sent or have arrived."""
CHUNK = 2**20
"""Bytes that are in memory at once."""
_ATTEMPTS = 5
Result = TypeVar("Result")


Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern="^[0-9A-Fa-f]{64}$")]
"""A digest; it is part of the name of a partial file, so that it must be nothing else."""


class StoredVersion(Frozen):
    """A version of a package in a store."""

    name: str
    version: str
    sha256: Sha256 | None = None
    """SHA-256 of the package, hexadecimal; None where the store does not say it."""
    size: NonNegativeInt | None = None
    """Bytes of the package."""
    created: datetime | None = None
    location: str = ""
    """Where the package lies, in the store's own terms."""

    @classmethod
    def read(cls, name: str, version: str, record: Mapping[str, Any], location: str) -> Self:
        """Read what a store says of a version: `sha256`, `size`, `created`. Raises ArtifactError for bad values."""
        fields = {key: record.get(key) for key in ("sha256", "size", "created")}
        try:
            return cls(name=name, version=version, location=location, **fields)
        except ValidationError as error:
            raise ArtifactError(
                f"{location}: what the store says of {name} {version} is no record of a package "
                f"({validation_problems(error).strip()}); delete this version from the store, and push it again",
                code="store.record",
            ) from error


@dataclass(frozen=True)
class PackageFile:
    """A package file that is pushed under a name and a version."""

    path: Path
    name: str
    version: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, name: str, version: str) -> PackageFile:
        """Describe a file. Raises InputError for a name or a version that is not one, and OSError."""
        check_name(name)
        return cls(path, name, SemanticVersion(version).text, file_sha256(path), path.stat().st_size)

    def confirm(self, stored: StoredVersion) -> StoredVersion:
        """Return what a store has under this name and version. Raises InputError if it is another content."""
        if stored.sha256 is not None and stored.sha256 != self.sha256:
            raise InputError(
                f"{self.name} {self.version}: the store has this version with other content (SHA-256 "
                f"{stored.sha256:.12}…, not {self.sha256:.12}…); versions never change: choose a higher one",
                code="store.version_exists",
            )
        return stored


class Store(ABC):
    """A store of packages. Its methods raise InputError if it refuses, and ExternalError if it does not work.

    A version never changes: of two uploads of one version with different content, one is stored and the other raises
    `store.version_exists`. A version is visible only when its package is complete.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") if address.split("://", 1)[1].strip("/") else address
        self.public_name = public_name(self.address)

    @abstractmethod
    def versions(self, name: str) -> list[str]:
        """Return the versions of a name, in any order, with whatever else the store has there; empty without any."""

    @abstractmethod
    def find(self, name: str, version: str) -> StoredVersion | None:
        """Return what the store says about a version; None if it does not have it."""

    @abstractmethod
    def upload(self, package: PackageFile, advance: Advance) -> StoredVersion:
        """Send a package, and return what the store says it has now under this name and version."""

    @abstractmethod
    def download(self, stored: StoredVersion, path: Path, advance: Advance) -> None:
        """Write the package to a file, which may hold a first part of the same content already."""


def repeat(
    action: Callable[[], Result], store: str, failures: tuple[type[Exception], ...], pause_s: float = 0.5
) -> Result:
    """Repeat an action a few times, with longer and longer pauses. failures: what it raises if a repetition may help.

    Raises ExternalError when the last attempt failed too.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            return action()
        except failures as error:
            failure = error
    raise ExternalError(
        f"{store}: the store cannot be reached, or does not work: {public_text(str(failure)):.300}; run the command "
        "again, which continues where it stopped",
        code="store.unreachable",
    ) from failure


def append(file: BinaryIO, chunks: Iterable[bytes], size: int | None, advance: Advance) -> None:
    """Write what arrives to a file, at most about `size` bytes in all: the digest shows a longer content."""
    for chunk in chunks:
        file.write(chunk)
        advance(len(chunk))
        if size is not None and file.tell() > size:
            return


def check_name(name: str) -> str:
    """Return the name. Raises InputError if it cannot be the name of a model."""
    if len(name) > 128 or not re.fullmatch(NAME_PATTERN.removesuffix("$"), name):
        raise InputError(
            f"{name!r:.140}: is not a name for a package; expected up to 128 letters, digits and . _ -, starting with "
            "a letter or a digit",
            code="store.name",
        )
    return name


def unconfirmed(store: str, package: PackageFile, answer: str) -> ExternalError:
    """Create the error for a store whose answer does not confirm an upload."""
    return ExternalError(
        f"{store}: the store does not confirm {package.name} {package.version} (SHA-256 {package.sha256:.12}…): "
        f"{answer:.300}; do not rely on this version, and ask who runs the store",
        code="store.unconfirmed",
    )
