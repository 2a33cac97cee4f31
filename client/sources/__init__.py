"""Where pictures come from: what is given on the command line becomes one stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client.picture import Picture, picture_of_file
from client.sources.local import find_images, places


@dataclass(frozen=True)
class Found:
    """The pictures that are meant, each once, in an order that is the same the next time."""

    pictures: Iterable[Picture]
    """Made one by one, as they are taken."""
    total: int | None
    """How many there are, where that is known beforehand."""


def find(given: Sequence[str]) -> Found:
    """Files, folders and globs.

    Raises InputError that names everything that stands for nothing.
    """
    paths = find_images(given)
    placed = zip(paths, places(given, paths), strict=True)
    return Found((picture_of_file(path, place) for path, place in placed), len(paths))
