"""Publishing a version so that the repository is loadable at every moment, also when the builder is killed.

Triton takes every folder in a repository for a model, hidden ones too. So a version is built in a staging folder
beside the repository, `.<repository>.staging/`, as the whole model folder it will become: the versions there are, as
hard links, and the new one with its configuration. One rename puts it in place; where the model exists already,
Linux's RENAME_EXCHANGE swaps both folders in one step.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from model.errors import ArtifactError
from model.staging import staging_folder
from model.triton_config import CONFIG_FILE, last_version, read_config, versions_of

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = ".aside"
_PROBE = ".builder-probe"
"""An empty file, which Triton does not look at, should a builder that was killed leave it in the repository."""
_SUFFIX_LENGTH = len("-01234567")


class CompanionModels:
    """Other models that change with a model: what no longer fits it goes before it changes, what fits comes after.

    So a builder that is killed in between leaves less to serve, but nothing that does not load.
    """

    def __init__(self, repository: Path, aside: Path) -> None:
        """aside: the staging folder."""
        self._repository, self._aside = repository, aside
        self._going: list[str] = []
        self._coming: dict[str, Path] = {}

    def remove(self, name: str) -> None:
        """Have a model leave the repository, where it is there."""
        self._going.append(name)

    def add(self, name: str) -> Path:
        """An empty folder to write a model into. They are put in place in the order of these calls."""
        folder = self._coming[name] = _staged(self._aside, name)
        folder.mkdir()
        return folder

    def is_removed(self, name: str) -> bool:
        """Whether `go` was asked for it."""
        return name in self._going

    @contextmanager
    def moved_around(self, model: Path) -> Iterator[None]:
        """Change the model in the block. Where that fails, all stays as it was; once it has changed, the others go."""
        for folder in self._coming.values():
            _flush(folder)
        before, gone = _identity(model), {}
        try:
            for live in (self._repository / name for name in self._going):
                if live.is_dir():
                    gone[live] = _staged(self._aside, live.name)
                    live.rename(gone[live])
            yield
        except BaseException:
            _recover(self._aside, self._repository)
            if _identity(model) == before:
                for live in (live for live, away in gone.items() if away.is_dir()):
                    gone[live].rename(live)
            raise
        for name, folder in self._coming.items():
            _put_in_place(folder, self._repository / name)


class Replacement:
    """A model folder being prepared, `model`, and what changes with it."""

    def __init__(self, model: Path, neighbours: CompanionModels) -> None:
        self.model = model
        self.neighbours = neighbours


class Publication(Replacement):
    """One with a new version: `version_folder` is the folder of it."""

    def __init__(self, model: Path, version: int, neighbours: CompanionModels) -> None:
        super().__init__(model, neighbours)
        self.version = version
        self.version_folder = model / str(version)


@contextmanager
def publication(repository: Path, name: str) -> Iterator[Publication]:
    """Prepare a new version; it is published when the block ends without an error, and vanishes otherwise.

    Raises ArtifactError when another builder is publishing to the repository, or the file system forbids it.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{repository}: cannot be a model repository ({error.strerror})") from error
    with replacement(repository, name) as changed:
        prepared = Publication(changed.model, next_version(repository / name), changed.neighbours)
        prepared.version_folder.mkdir(parents=True)
        yield prepared


@contextmanager
def replacement(repository: Path, name: str) -> Iterator[Replacement]:
    """Prepare a model's folder anew, from what is there; it takes its place when the block ends without an error.

    Raises ArtifactError when another builder is at work in the repository, or the file system forbids it.
    """
    with staging(repository) as folder:
        live, staged = repository / name, _staged(folder, name)
        _link_tree(live, staged)
        prepared = Replacement(staged, CompanionModels(repository, folder))
        yield prepared
        _flush(staged)
        with prepared.neighbours.moved_around(live):
            _put_in_place(staged, live)


def _identity(folder: Path) -> int | None:
    """What tells a folder from another one that has taken its place; None where there is none."""
    return folder.stat().st_ino if folder.is_dir() else None


def _staged(aside: Path, name: str) -> Path:
    return aside / f"{name}-{uuid4().hex[:8]}"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Be the only builder, with an empty staging folder, which is removed with all that is left in it.

    What is moved into it is deleted, also when the builder is killed: by the next one. A model that an exchange in two
    steps left there is put back.
    Raises ArtifactError when another builder is at work in the repository, or nothing can be moved into it from here.
    """
    folder = staging_folder(repository)
    with _only_builder(repository):
        _recover(folder, repository)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _make_staging(folder, repository)
            yield folder
        finally:
            _recover(folder, repository)
            shutil.rmtree(folder, ignore_errors=True)


def _make_staging(folder: Path, repository: Path) -> None:
    """Make it, and find out before the work whether what is prepared there can be moved into the repository."""
    probe = repository / _PROBE
    try:
        folder.mkdir()
        (folder / _PROBE).touch()
        (folder / _PROBE).rename(probe)
        probe.unlink()
    except OSError as error:
        raise ArtifactError(
            f"{repository}: nothing can be moved into it from {folder}, where models are prepared "
            f"({error.strerror}). Both must be writable and on one file system: where {repository} itself is a "
            "volume or a mount, take a folder inside it as the repository"
        ) from error


def next_version(model: Path) -> int:
    """One more than any version there is or was."""
    last = 0
    if (model / CONFIG_FILE).is_file():
        last = last_version(read_config(model))
    return max([last, *versions_of(model)]) + 1


@contextmanager
def _only_builder(repository: Path) -> Iterator[None]:
    """Hold a lock on the repository's folder; the kernel lets go of it when this process ends, however it ends."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        _lock(descriptor, repository)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, repository: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ArtifactError(f"{repository}: another builder is publishing here; try again when it is done") from error


def _link_tree(live: Path, staged: Path) -> None:
    if not live.is_dir():
        staged.mkdir()
        return
    try:
        shutil.copytree(live, staged, copy_function=os.link)
    except (OSError, shutil.Error) as error:
        raise ArtifactError(
            f"{live}: cannot be hard-linked into {staged.parent} ({error}). The repository's parent folder must be "
            "writable and on the same file system."
        ) from error


def _flush(folder: Path) -> None:
    """Have the new files on disk before anything points to them. A link is a user's, and may lead nowhere from here."""
    for path in (path for path in (*folder.rglob("*"), folder) if not path.is_symlink()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(staged: Path, live: Path) -> None:
    try:
        if live.is_dir():
            _exchange(staged, live)
        else:
            staged.rename(live)
    except OSError as error:
        raise ArtifactError(f"{live}: cannot be put in place from {staged.parent} ({error})") from error


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step (renameat2(2)); on file systems without it, in two with a gap between them."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code))
    exchange_in_two(first, second)


def exchange_in_two(first: Path, second: Path) -> None:
    """Swap by renames; what was aside when the builder was killed is put back by the next one."""
    aside = first.with_name(f"{first.name}{_ASIDE}")
    second.rename(aside)
    try:
        first.rename(second)
    finally:
        if not second.exists():
            aside.rename(second)
    aside.rename(first)


def _recover(staging: Path, repository: Path) -> None:
    """Put back a model that an interrupted exchange in two steps left aside."""
    for aside in staging.glob(f"*{_ASIDE}"):
        live = repository / aside.name.removesuffix(_ASIDE)[:-_SUFFIX_LENGTH]
        try:
            if not live.exists():
                aside.rename(live)
        except OSError as error:
            raise ArtifactError(
                f"{live}: is in {aside} and could not be moved back ({error.strerror}); move it there by hand, or run "
                "the builder again"
            ) from error
