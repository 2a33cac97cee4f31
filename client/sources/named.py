"""The files of this machine that arguments name, before any of them is opened."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from client.sources.containers import container_of, containers
from client.sources.content import SpillBuffer
from client.sources.finding import STDIN
from client.sources.lists import CSV_SUFFIXES
from client.sources.naming import is_address
from client.sources.videos import Video


def files_named(given: Sequence[str]) -> Iterator[str]:
    """The files that arguments name, themselves or by a pattern; what lies in folders is not among them."""
    for text in given:
        if text == STDIN or is_address(text):
            continue
        if glob.has_magic(text) and not os.path.lexists(text):
            yield from filter(os.path.isfile, glob.iglob(text, recursive=True))  # noqa: PTH207 - absolute patterns too
        elif os.path.isfile(text):  # noqa: PTH113 - false also for impossible names
            yield text


def may_hold_video(given: Sequence[str]) -> bool:
    """Whether any frame of a video may be among what is given; folders and archives are searched for pictures alone."""
    known = containers(1, SpillBuffer())
    if any(text == STDIN or is_address(text) for text in given):
        return True
    return any(
        os.path.splitext(file)[1].lower() in CSV_SUFFIXES or isinstance(container_of(file, known), Video)  # noqa: PTH122
        for file in files_named(given)
    )
