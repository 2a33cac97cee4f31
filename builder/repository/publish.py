"""Publish a version atomically: Triton can load the repository at every moment, also when the builder is killed.

Triton treats every folder in a repository as a model, hidden folders too. So the new model folder is built in a
staging folder beside the repository, `.<repository>.staging/`: existing versions as hard links, and the new version
with its configuration. One rename moves it into place; where the model exists already, Linux's RENAME_EXCHANGE swaps
both folders in one step.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tritonkit.errors import ArtifactError
from tritonkit.repository.staging import locked, staging_folder
from tritonkit.triton.model_config import CONFIG_FILE, last_version, read_config, versions_of

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = ".aside"
_PROBE = ".builder-probe"
"""An empty file; Triton ignores it if a killed builder leaves it in the repository."""
_SUFFIX_LENGTH = len("-01234567")


class CompanionModels:
    """Models that change together with a model: stale ones are removed before it changes, new ones added after it.

    So a builder that is killed in between leaves fewer models, but none that fails to load.
    """

    def __init__(self, repository: Path, staging_folder: Path) -> None:
        self._repository, self._staging = repository, staging_folder
        self._removed: list[str] = []
        self._added: dict[str, Path] = {}

    def remove(self, name: str) -> None:
        """Remove a model from the repository, if it exists."""
        self._removed.append(name)

    def add(self, name: str) -> Path:
        """Create an empty folder to write a model into. Models are moved into place in the order of these calls."""
        folder = self._added[name] = new_staging_path(self._staging, name)
        folder.mkdir()
        return folder

    def is_removed(self, name: str) -> bool:
        """Whether `remove` was called for a model."""
        return name in self._removed

    @contextmanager
    def apply_around(self, model: Path) -> Iterator[None]:
        """Change the model in the block. An error restores the removed models; success adds the new ones."""
        for folder in self._added.values():
            _flush_tree(folder)
        before, removed = _identity(model), {}
        try:
            for live in (self._repository / name for name in self._removed):
                if live.is_dir():
                    removed[live] = new_staging_path(self._staging, live.name)
                    live.rename(removed[live])
            yield
        except BaseException:
            _recover(self._staging, self._repository)
            if _identity(model) == before:
                for live in (live for live, away in removed.items() if away.is_dir()):
                    removed[live].rename(live)
            raise
        for name, folder in self._added.items():
            _move_into_place(folder, self._repository / name)


@dataclass
class Publication:
    """A model folder in preparation, and the companion models that change with it."""

    model: Path
    companions: CompanionModels
    version: int = 0
    """The version to add; 0 where the folder is replaced without a new one."""

    @property
    def version_folder(self) -> Path:
        """The folder of the new version."""
        return self.model / str(self.version)


@contextmanager
def publication(repository: Path, name: str) -> Iterator[Publication]:
    """Prepare a new version; it is published when the block ends without an error, and deleted otherwise.

    Raises ArtifactError where another builder is publishing to the repository, or the file system does not allow it.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"{repository}: cannot be a model repository ({error.strerror})", code="repository.not_writable"
        ) from error
    with replacement(repository, name) as prepared:
        prepared.version = next_version(repository / name)
        prepared.version_folder.mkdir(parents=True)
        yield prepared


@contextmanager
def replacement(repository: Path, name: str) -> Iterator[Publication]:
    """Prepare a copy of a model's folder; it replaces the folder when the block ends without an error.

    Raises ArtifactError where another builder is publishing to the repository, or the file system does not allow it.
    """
    with staging(repository) as folder:
        live, staged = repository / name, new_staging_path(folder, name)
        try:
            if live.is_dir():
                shutil.copytree(live, staged, copy_function=os.link)
            else:
                staged.mkdir()
        except (OSError, shutil.Error) as error:
            raise ArtifactError(
                f"{live}: cannot be hard-linked into {folder} ({error}). The repository's parent folder must be "
                "writable and on the same file system",
                code="repository.hard_link",
            ) from error
        prepared = Publication(staged, CompanionModels(repository, folder))
        yield prepared
        _flush_tree(staged)
        with prepared.companions.apply_around(live):
            _move_into_place(staged, live)


def _identity(folder: Path) -> int | None:
    """The inode number of a folder, to detect that it was replaced; None where it does not exist."""
    return folder.stat().st_ino if folder.is_dir() else None


def new_staging_path(folder: Path, name: str) -> Path:
    """A path in the staging folder for a model or version of this name."""
    return folder / f"{name}-{uuid4().hex[:8]}"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Lock the repository and yield a staging folder; it is deleted on exit.

    Whatever is moved into it is deleted; after a killed builder, the next builder does so. A model that an interrupted
    swap in two steps left there is moved back.
    Raises ArtifactError where another builder is publishing to the repository, or no file can be moved into it.
    """
    folder, probe = staging_folder(repository), repository / _PROBE

    def clear() -> None:
        _recover(folder, repository)
        shutil.rmtree(folder, ignore_errors=True)

    with ExitStack() as stack:
        stack.enter_context(locked(repository))
        clear()
        stack.callback(clear)
        try:
            folder.mkdir()
            (folder / _PROBE).touch()
            (folder / _PROBE).rename(probe)
            probe.unlink()
        except OSError as error:
            raise ArtifactError(
                f"{repository}: files cannot be moved into it from the staging folder {folder} ({error.strerror}). "
                f"Both must be writable and on one file system: where {repository} itself is a volume or a mount, use "
                "a folder inside it as the repository",
                code="repository.staging",
            ) from error
        yield folder


def next_version(model: Path) -> int:
    """The next version number: one more than the highest number ever used."""
    last = last_version(read_config(model)) if (model / CONFIG_FILE).is_file() else 0
    return max([last, *versions_of(model)]) + 1


def _flush_tree(folder: Path) -> None:
    """Write the new files to disk before they are moved. Symbolic links are skipped: their target may not exist."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            flush(path)


def flush(path: Path) -> None:
    """Write a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_place(staged: Path, live: Path) -> None:
    try:
        if live.is_dir():
            _exchange(staged, live)
        else:
            staged.rename(live)
    except OSError as error:
        raise ArtifactError(
            f"{live}: cannot be replaced from {staged.parent} ({error})", code="repository.replace"
        ) from error


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step by renameat2(2); on file systems without it, in two steps with a gap."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if rename is not None and rename(*paths, _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if rename is not None and code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code))
    exchange_in_two(first, second)


def exchange_in_two(first: Path, second: Path) -> None:
    """Swap two folders by renames. After a killed builder, the next one moves the folder back (`_recover`)."""
    aside = first.with_name(f"{first.name}{_ASIDE}")
    second.rename(aside)
    try:
        first.rename(second)
    finally:
        if not second.exists():
            aside.rename(second)
    aside.rename(first)


def _recover(staging: Path, repository: Path) -> None:
    """Move back a model that an interrupted swap in two steps left in the staging folder."""
    for aside in staging.glob(f"*{_ASIDE}"):
        live = repository / aside.name.removesuffix(_ASIDE)[:-_SUFFIX_LENGTH]
        try:
            if not live.exists():
                aside.rename(live)
        except OSError as error:
            raise ArtifactError(
                f"{live}: lies in {aside} and could not be moved back ({error.strerror}); move it back by hand, or run "
                "the builder again",
                code="repository.recover",
            ) from error
