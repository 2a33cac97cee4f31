"""Local files that the command's arguments name, before any of them is opened."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from client.sources.containers import container_of, container_types
from client.sources.content import SpillBuffer
from client.sources.lists import CSV_SUFFIXES
from client.sources.picture_stream import STDIN
from client.sources.videos import Video
from tritonkit.remotes.addresses import is_address


def files_in_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the files that arguments name directly or by a glob; not the files in folders."""
    for text in arguments:
        if text == STDIN or is_address(text):
            continue
        if glob.has_magic(text) and not os.path.lexists(text):
            yield from filter(os.path.isfile, glob.iglob(text, recursive=True))  # noqa: PTH207 - absolute patterns too
        elif os.path.isfile(text):  # noqa: PTH113 - false also for invalid names
            yield text


def may_contain_video(arguments: Sequence[str]) -> bool:
    """Whether an argument may contain a video; folders and archives are searched for images only."""
    types = container_types(1, SpillBuffer())
    if any(text == STDIN or is_address(text) for text in arguments):
        return True
    return any(
        os.path.splitext(file)[1].lower() in CSV_SUFFIXES or isinstance(container_of(file, types), Video)  # noqa: PTH122
        for file in files_in_arguments(arguments)
    )
