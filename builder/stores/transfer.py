"""Push a package to a store, and pull one from it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from builder.semantic import LATEST, SemanticVersion, choose_version, is_semantic_version
from builder.stores.base import PackageFile, Store, StoredVersion, check_name
from tritonkit.errors import ExternalError, InputError
from tritonkit.remotes.addresses import is_address
from tritonkit.remotes.progress import transfer_progress
from tritonkit.spec import Frozen
from tritonkit.system.files import check_can_write, file_sha256
from tritonkit.system.standard_streams import warn

_KINDS = {
    "http": ("http", "HttpStore"),
    "https": ("http", "HttpStore"),
    "mlflow": ("mlflow", "MlflowStore"),
    "oci": ("oci", "OciStore"),
}
"""Module and class of a scheme; every other scheme is a file system of fsspec."""


class Pushed(Frozen):
    """The result of a push."""

    store: str
    package: StoredVersion
    was_there: bool
    """Whether the store had the same content under this version before."""


class Pulled(Frozen):
    """The result of a pull."""

    store: str
    package: StoredVersion
    path: Path


def open_store(address: str) -> Store:
    """Return the store of an address, without a request. Raises InputError."""
    if not is_address(address):
        raise InputError(
            f"{address}: is not the address of a store; expected http(s)://, s3://, gs://, az://, file://, mlflow:// "
            "or oci://",
            code="store.address",
        )
    module, kind = _KINDS.get(address.partition("://")[0].lower(), ("files", "FileStore"))
    store: Store = getattr(import_module(f"builder.stores.{module}"), kind)(address)
    return store


def push(path: Path, address: str, name: str, version: str) -> Pushed:
    """Upload a package file under a name and a semantic version. The same content is confirmed again.

    Raises InputError for a bad name, version or address, and if the store has the version with other content;
    ExternalError if the store cannot be reached or does not confirm the version.
    """
    store, package = open_store(address), PackageFile.of(path, name, version)
    known = store.find(name, package.version)
    if known is not None and known.sha256 is not None:
        return Pushed(store=store.public_name, package=package.confirm(known), was_there=True)
    with transfer_progress(f"sending {name} {version}", package.size) as advance:
        stored = store.upload(package, advance)
    return Pushed(store=store.public_name, package=stored, was_there=False)


def find_version(store: Store, reference: str) -> StoredVersion:
    """Return the version that NAME, NAME@VERSION, NAME@^RANGE or NAME@latest means. Raises InputError if none does."""
    name, _, wanted = reference.partition("@")
    # Others may put names there that are no semantic versions, such as a tag `latest`.
    known = sorted(filter(is_semantic_version, store.versions(check_name(name))), key=SemanticVersion)
    chosen = choose_version(known, wanted or LATEST)
    stored = store.find(name, chosen) if chosen else None
    if stored is None:
        problem = (
            f"has no version {wanted} of {name}; it has {', '.join(known[-10:])}" if known else f"has no package {name}"
        )
        raise InputError(f"{store.public_name}: {problem}", code="store.no_version")
    return stored


def pull(address: str, reference: str, output_of: Callable[[StoredVersion], Path]) -> Pulled:
    """Download the package that NAME[@VERSION] means to the path that `output_of` returns.

    The file gets its name when its SHA-256 is checked. A transfer that stops leaves a hidden `.partial` file, which
    the next pull continues; a second pull of the same content waits for the first. Raises InputError if there is no
    such version, ExternalError if the store cannot be reached or the content is another than the store's record says.
    """
    store = open_store(address)
    stored = find_version(store, reference)
    output = output_of(stored)
    check_can_write(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Of one content: the name of its digest, so that it can be continued.
    partial = output.with_name(f".{output.name}.{stored.sha256 or 'unknown':.16}.partial")
    with _locked(partial):
        if stored.sha256 is None:
            os.truncate(partial, 0)
        with transfer_progress(f"fetching {stored.name} {stored.version}", stored.size) as advance:
            store.download(stored, partial, advance)
        found = file_sha256(partial)
        if found != (stored.sha256 or found):
            partial.unlink()
            raise ExternalError(
                f"{store.public_name}: {stored.name} {stored.version} came with the SHA-256 {found}, but the store's "
                f"record says {stored.sha256}; pull it again, and if that does not help, the store is damaged",
                code="store.digest",
            )
        partial.replace(output)
    return Pulled(store=store.public_name, package=stored.model_copy(update={"sha256": found}), path=output)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Create a file if it is missing, and wait until no other pull writes it; an empty one is deleted at the end.

    Stores must write to the file itself, and not replace it: the lock is on its content, not on its name.
    """
    while True:
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                warn(f"{partial}: waiting for another pull that writes it")
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _has_name(file.fileno(), partial):  # the other pull has renamed or deleted it
                continue
            try:
                yield
            finally:
                if not os.fstat(file.fileno()).st_size and _has_name(file.fileno(), partial):
                    partial.unlink()
            return


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
