"""Files of packages on disk: scratch folders next to a repository, and copies that cost no space."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonkit.errors import ArtifactError
from tritonkit.repository.signing.check import PYTHON_CACHE
from tritonkit.repository.signing.signed_files import shared_files
from tritonkit.repository.staging import locked


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder on the file system of `target`; it is deleted on exit.

    Those that killed commands left there are deleted too: a folder in use is locked.
    """
    target = target.resolve()
    parent = next(folder for folder in target.parents if folder.is_dir())
    prefix = f".{target.name}.package-"
    for left in parent.glob(f"{prefix}*"):
        with suppress(ArtifactError, OSError), locked(left):
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o755)
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make a hard link, or a copy where the file system allows none; a present target is replaced."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_tree(source: Path, target: Path, *left_out: str) -> None:
    """Link or copy a folder with all its files into another one, which may exist; without caches of Python."""
    ignored = shutil.ignore_patterns(PYTHON_CACHE, *left_out)
    shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True, ignore=ignored)


def link_shared_files(source: Path, target: Path) -> None:
    """Link or copy the files that all versions of a model share into another folder of it, without config.pbtxt."""
    for name in shared_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / name, target / name)
