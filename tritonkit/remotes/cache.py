"""Copies of remote files and folders in a cache: continued where they stopped, and used again while unchanged.

The cache is `$TRITONKIT_CACHE`, by default `~/.cache/tritonkit`. Each address has a folder in it, and next to that
a record (`.json`) with the size, the version and the SHA-256 of each file, and a lock. One request, or one listing of a
folder, shows whether the source has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from tritonkit.errors import ExternalError, InputError
from tritonkit.images.picture_files import is_below_hidden
from tritonkit.remotes.addresses import DVC, address_path, is_address, public_name
from tritonkit.remotes.filesystems import fault_of, open_filesystem, translate_errors
from tritonkit.remotes.progress import transfer_progress
from tritonkit.remotes.transfer import RemoteFile, Transfer
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write, file_sha256
from tritonkit.system.standard_streams import warn

CACHE_VARIABLE = "TRITONKIT_CACHE"
_PIN = "#sha256="
_THREADS = 16
_SAVE_S = 10.0
"""Seconds between two writes of the record while files arrive."""


class CachedFile(Frozen):
    """A file in the cache."""

    size: int
    version: str
    """That of its source, see `RemoteFile`."""
    sha256: str


class Record(Frozen):
    """What the cache holds of an address."""

    address: str
    """Without secrets."""
    is_folder: bool = False
    complete: bool = False
    files: dict[str, CachedFile] = {}
    """By the path below the folder of the address."""


def cache_folder() -> Path:
    """Return the folder of all copies."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "tritonkit"


def local_path(location: str | Path, companions: Sequence[str] = ()) -> Path:
    """Return a path as it is, with its `~` expanded, and for an address the path of its copy in the cache.

    The copy is made where it is missing, and renewed if the source has changed. `ADDRESS#sha256=DIGEST` accepts only
    this content. companions: files next to a remote file that are fetched too if they exist.

    Raises InputError if nothing has this name (`remote.absent`), if the store refuses (`remote.forbidden`) or if the
    content is not the expected one (`remote.hash`); ExternalError if no answer comes (`remote.unreachable`).
    """
    text = str(location)
    if not is_address(text):
        return Path(os.path.expanduser(text))  # noqa: PTH111 - keeps the name of an unknown user
    address, mark, pin = text.partition(_PIN)
    if mark and not re.fullmatch("[0-9a-f]{64}", pin.lower()):
        raise InputError(
            f"{public_name(address)}{_PIN}{pin:.80}: expected 64 hexadecimal digits, as sha256sum prints them",
            code="remote.pin",
        )
    if not address.partition("://")[2].strip("/"):
        raise InputError(f"{address}: names no bucket, host or path", code="store.address")
    files, path = open_filesystem(address)
    if "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol):
        return Path(path)
    return _Copy(address, files, path).fetch(companions, pin.lower())


def fetch_companions(path: Path, names: Iterable[str]) -> None:
    """Fetch the files that a remote table names relative to itself. Does nothing for a path outside the cache.

    Names that are absolute, lead out of the table's folder or do not exist are left out: the table's reader finds them
    missing.
    """
    folder = path.parent
    if folder.parent.parent != cache_folder() or (record := _read_record(folder)) is None or record.is_folder:
        return
    slashed = dict.fromkeys(name.replace("\\", "/") for name in names)
    _Copy(record.address, *open_filesystem(record.address)).fetch_companions(
        [name for name in slashed if _is_below(name)]
    )


class _Copy:
    """The copy of one address in the cache."""

    def __init__(self, address: str, files: Any, path: str) -> None:
        self.address, self.name, self._files, self._path = address, public_name(address), files, path
        self.base = address_path(path).rstrip("/").rpartition("/")[2]
        # A path of DVC may be one in the repository here.
        place = f"{self.name}\n{Path.cwd()}" if address.startswith(DVC) else self.name.rstrip("/")
        stem = re.sub(r"[^\w.@-]", "_", self.base)[-80:].lstrip(".")
        digest = hashlib.sha256(place.encode()).hexdigest()[:12]
        self.folder = cache_folder() / self.name.partition("://")[0].lower() / f"{stem}-{digest}"
        self._partials = self.folder.with_name(f"{self.folder.name}.partial")
        # Others than the asynchronous ones and DVC's may not be safe to use from several threads.
        self._threads = _THREADS if getattr(files, "async_impl", False) or address.startswith(DVC) else 1

    def fetch(self, companions: Sequence[str] = (), pin: str = "") -> Path:
        """Make the copy equal to its source, and return its path."""
        with _locked(self.folder, self.name):
            record = self._intact_record()
            if pin and not companions and record.complete and self._has(pin, record):
                return self.folder / self.base
            record = self._renewed(record, lambda: self._sources(companions))
            if pin and not self._has(pin, record):
                raise self._wrong_content(pin, record)
            return self.folder if record.is_folder else self.folder / self.base

    def fetch_companions(self, names: Sequence[str]) -> None:
        """Fetch files next to the file, without a request for itself: its signature is not in the record."""
        with _locked(self.folder, self.name):
            self._renewed(self._intact_record(), lambda: (False, self._companions(names)))

    def _renewed(self, record: Record, find: Callable[[], tuple[bool, dict[str, RemoteFile]]]) -> Record:
        """Make the copy equal to the files that `find` returns. Where the store is away, a complete copy is enough."""
        try:
            with translate_errors(self.address):
                is_folder, sources = find()
        except ExternalError as error:
            if not record.complete:
                raise
            warn(f"warning: {error}; using the copy in {self.folder}")
            return record
        return self._renew(record, is_folder, sources)

    def _intact_record(self) -> Record:
        """Return the record without the files that someone deleted or changed."""
        record = _read_record(self.folder) or Record(address=self.name)
        intact = {}
        for rel, file in record.files.items():
            with suppress(OSError):
                if (self.folder / rel).stat().st_size == file.size:
                    intact[rel] = file
        complete = record.complete and len(intact) == len(record.files)
        return record.model_copy(update={"files": intact, "complete": complete})

    def _has(self, pin: str, record: Record) -> bool:
        return not record.is_folder and self.base in record.files and record.files[self.base].sha256 == pin

    def _wrong_content(self, pin: str, record: Record) -> InputError:
        if record.is_folder:
            return InputError(f"{self.name}: is a folder; {_PIN}… is for one file", code="remote.pin")
        found = record.files[self.base].sha256
        return InputError(
            f"{self.name}: expected the SHA-256 {pin}, got {found}; the file has changed, or the address is another's",
            code="remote.hash",
        )

    def _sources(self, companions: Sequence[str]) -> tuple[bool, dict[str, RemoteFile]]:
        """Return whether the address is a folder, and its files by their path in the copy."""
        info = self._files.info(self._path)
        if info["type"] != "directory":
            return False, {self.base: RemoteFile.of(self._path, info), **self._companions(companions)}
        root, sources = self._path.strip("/"), {}
        for path, entry in self._files.find(self._path, detail=True).items():
            rel = path.strip("/").removeprefix(root).lstrip("/")
            if not rel or path.endswith("/") or is_below_hidden(rel):
                continue  # a store may list the folder itself as one of its files
            if not _is_below(rel):
                raise InputError(
                    f"{self.name}: contains the name {rel!r:.120}, which leads out of the folder; rename it",
                    code="remote.unsafe_name",
                )
            sources[rel] = RemoteFile.of(path, entry)
        if not sources:
            raise FileNotFoundError("the folder is empty")
        return True, sources

    def _companions(self, names: Sequence[str]) -> dict[str, RemoteFile]:
        """Return those files next to the file that exist. Some stores answer 403 for a name that does not exist."""
        folder = self._path[: len(self._path) - len(self.base)]
        if not names or not self._path.endswith(self.base):  # an address with a query is of one file
            return {}

        def find(name: str) -> RemoteFile | None:
            try:
                return RemoteFile.of(folder + name, self._files.info(folder + name))
            except Exception as error:  # each store's library has its own exceptions
                if fault_of(error) in ("absent", "forbidden"):
                    return None
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            found = zip(names, pool.map(find, names), strict=True)
            return {name: file for name, file in found if file is not None}

    def _renew(self, record: Record, is_folder: bool, sources: Mapping[str, RemoteFile]) -> Record:
        """Fetch what is missing or has changed, and delete what a remote folder no longer has."""
        if is_folder != record.is_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            record = Record(address=self.name, is_folder=is_folder)
        kept = {
            rel: file
            for rel, file in record.files.items()
            # Next to a file lie companions of earlier calls.
            if (rel in sources or not is_folder)
            and (rel not in sources or (file.version and file.version == sources[rel].version))
        }
        missing = {rel: source for rel, source in sources.items() if rel not in kept}
        if record.complete and not missing and len(kept) == len(record.files):
            return record
        if is_folder:
            for path in [path for path in self.folder.rglob("*") if path.is_file()]:
                if path.relative_to(self.folder).as_posix() not in kept:
                    path.unlink()
        record = self._download(missing, Record(address=self.name, is_folder=is_folder, files=kept))
        shutil.rmtree(self._partials, ignore_errors=True)
        return self._save(record.model_copy(update={"complete": True}))

    def _download(self, missing: Mapping[str, RemoteFile], record: Record) -> Record:
        """Fetch files, in parallel where the store permits. What has arrived is recorded also if one fails."""
        files, saved_at = dict(record.files), time.monotonic()
        transfer, sizes = Transfer(self._files, self.address), [source.size for source in missing.values()]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self._partials.mkdir(parents=True, exist_ok=True)

        def fetch(rel: str) -> None:
            source, target = missing[rel], self.folder / rel
            partial = self._partials / hashlib.sha256(f"{rel}\n{source.version}".encode()).hexdigest()[:32]
            if not source.version:  # it may have changed
                partial.unlink(missing_ok=True)
            transfer.copy(source, partial, advance)
            target.parent.mkdir(parents=True, exist_ok=True)
            size, sha256 = partial.stat().st_size, file_sha256(partial)
            partial.replace(target)
            files[rel] = CachedFile(size=size, version=source.version, sha256=sha256)

        pool = ThreadPoolExecutor(self._threads)
        try:
            with transfer_progress(f"fetching {self.name}", total) as advance:
                for _ in pool.map(fetch, missing):
                    if time.monotonic() - saved_at > _SAVE_S:
                        saved_at = time.monotonic()
                        self._save(record.model_copy(update={"files": dict(files)}))
        finally:
            pool.shutdown(cancel_futures=True)
            record = self._save(record.model_copy(update={"files": files}))
        return record

    def _save(self, record: Record) -> Record:
        with atomic_write(_record_path(self.folder)) as temporary:
            temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        return record


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _read_record(folder: Path) -> Record | None:
    """Read the record of a folder; None if there is none, or one of another version of this program."""
    with suppress(OSError, ValidationError):
        return Record.model_validate_json(_record_path(folder).read_bytes())
    return None


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process changes the copy."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            warn(f"{name}: waiting for another process that fetches it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_below(rel: str) -> bool:
    """Whether a path in a store stays below its folder."""
    return bool(rel) and not rel.startswith("/") and ".." not in PurePosixPath(rel).parts and "\0" not in rel
