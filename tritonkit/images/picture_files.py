"""Finds image files in a folder, an archive or a store, and counts the files that are skipped."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.images.preprocess import SUFFIXES

SYSTEM_FOLDERS = frozenset({"@eaDir", "__MACOSX"})
"""Folders with copies made by Synology's and Apple's programs; they are skipped like hidden folders."""
_UNSUPPORTED_IMAGES = frozenset(
    {
        *(".jxl", ".psd", ".psb", ".xcf", ".svg", ".ico", ".tga"),
        *(".cr2", ".cr3", ".dng", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".dds", ".pcx", ".dcm"),
        *(".eps", ".pdf", ".jxr", ".qoi", ".pfm", ".pam", ".fits"),
    }
)
"""Suffixes of image formats that may not be supported. They are listed first."""
_SHOWN = 10
_ENDING = re.compile(r"\.[\w-]{1,16}")


@dataclass
class SkippedFiles:
    """Counts the files that a search skips, by suffix."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Count by suffix in lower case, or by another description."""

    def add(self, name: str) -> None:
        """Count a file by its suffix."""
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million of them
        self.kinds[ending if _ENDING.fullmatch(ending) else "without an ending"] += 1

    def sentence(self) -> str:
        """Return the counts as one line, such as `3 files skipped: 2 .heic, 1 .txt`; empty if there are none."""
        total = self.kinds.total()
        kinds = sorted(self.kinds.items(), key=lambda kind: (kind[0] not in _UNSUPPORTED_IMAGES, -kind[1], kind[0]))
        counts = [f"{count} {kind}" for kind, count in kinds[:_SHOWN]]
        if rest := sum(count for _, count in kinds[_SHOWN:]):
            counts.append(f"{rest} of other kinds")
        return f"{total} file{'' if total == 1 else 's'} skipped: {', '.join(counts)}" if total else ""


@dataclass
class PictureSearch:
    """Searches folders for files with an image suffix. Links are followed, each real folder once."""

    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    errors: dict[str, str] = field(default_factory=dict)
    """Message for each path of a folder that cannot be listed or a file that cannot be read."""

    def pictures_below(self, folder: str) -> Iterator[str]:
        """Yield the paths sorted by their parts, those in linked folders last.

        Paths in `errors` are yielded too: a folder that cannot be listed, or a broken link.
        """
        seen, links = set[tuple[int, int]](), [folder]
        while links:
            waiting, links = [(link, True) for link in reversed(links)], []
            while waiting:
                path, is_folder = waiting.pop()
                if is_folder and self._is_new(path, seen):
                    waiting += sorted(self._entries(path, links), reverse=True)
                elif not is_folder or path in self.errors:
                    yield path

    def _is_new(self, folder: str, seen: set[tuple[int, int]]) -> bool:
        try:
            status = os.stat(folder)  # noqa: PTH116 - a million of them
        except OSError as error:
            self.errors[folder] = f"the folder cannot be read ({error.strerror})"
            return False
        key = (status.st_dev, status.st_ino)
        new = key not in seen
        seen.add(key)
        return new

    def _entries(self, folder: str, linked: list[str]) -> list[tuple[str, bool]]:
        """Return the folders and image files in a folder, as pairs of path and whether it is a folder."""
        start = "" if folder == "." else folder
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    path = os.path.join(start, entry.name)  # noqa: PTH118 - a million of them
                    if (kind := self._kind(entry, path)) == "link to a folder":
                        linked.append(path)
                    elif kind:
                        found.append((path, kind == "folder"))
        except OSError as error:
            self.errors[folder] = f"the folder cannot be listed ({error.strerror})"
            return [*found, (folder, False)]
        linked.sort()
        return found

    def _kind(self, entry: os.DirEntry[str], path: str) -> str:
        """Return `folder`, `link to a folder` or `picture`; empty for a skipped entry."""
        try:
            if entry.is_dir():
                return "link to a folder" if entry.is_symlink() else "folder"
            is_file = entry.is_file()
        except OSError as error:
            is_file = False
            self.errors[path] = f"cannot be read ({error.strerror})"
        if not is_file and path not in self.errors and entry.is_symlink():
            self.errors[path] = broken_link_message(path)
        if has_picture_suffix(entry.name):
            if is_file or path in self.errors:
                return "picture"
            self.skipped.kinds["that are not files"] += 1
        else:
            self.errors.pop(path, None)
            self.skipped.add(entry.name)
        return ""


def broken_link_message(path: str) -> str:
    """Return the message for a link that cannot be read."""
    return f"cannot be read (it is a link to {os.readlink(path)}, which does not exist)"  # noqa: PTH115 - as above


def pictures_below(folder: Path, search: PictureSearch | None = None) -> list[Path]:
    """Return the files below a folder that have an image suffix, sorted; hidden files are skipped.

    search: collects the counts of skipped files, and the errors.
    """
    search = search or PictureSearch()
    found = sorted(Path(path) for path in search.pictures_below(str(folder)))
    return [path for path in found if str(path) not in search.errors]


def is_hidden(name: str) -> bool:
    """Whether a search skips a file or folder of this name."""
    return name in SYSTEM_FOLDERS or (name.startswith(".") and name not in (".", ".."))


def is_below_hidden(path: str) -> bool:
    """Whether a path in an archive is hidden or in a hidden folder."""
    return any(map(is_hidden, path.split("/")))


def has_picture_suffix(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a million of them
