"""Files that hold many pictures: what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import BinaryIO, Protocol, TypeAlias

from client.picture import Picture
from client.sources.content import FailedContent, SpillBuffer
from client.sources.tars import Tar
from client.sources.videos import Video
from client.sources.zips import Zip
from model.errors import InputError
from model.picture_files import SkippedFiles
from model.preprocess import SUFFIXES, ImageError


class Container(Protocol):
    """A way to take pictures from a file with a descriptor, which becomes its own."""

    def total(self, file: BinaryIO) -> int | None:
        """How many pictures there are, if that is soon known. Raises ImageError."""

    def pictures(self, file: BinaryIO, name: str, place: PurePath) -> Iterator[Picture]:
        """The pictures in order, named and placed below the file's name and place.

        Raises ImageError when the file is no such container, or is one no more from here on, ExternalError when what
        must be held ready cannot be.
        """


Containers: TypeAlias = Mapping[tuple[str, ...], Container]


def containers(every: int, holder: SpillBuffer, skipped: SkippedFiles | None = None) -> Containers:
    """By the endings of files' names.

    every: of a video's frames, each so many-th is taken. skipped: counts what archives hold besides pictures.
    """
    skipped = skipped or SkippedFiles()
    return {
        (".zip",): Zip(skipped),
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"): Tar(holder, skipped),
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"): Video(every, holder),
    }


def container_of(name: str, known: Containers) -> Container | None:
    """What a file of this name is, if it is a container."""
    return next((container for endings, container in known.items() if name.lower().endswith(endings)), None)


def check(container: Container, open_file: Callable[[], BinaryIO]) -> int | None:
    """Open a container, look at its first picture, and tell how many there are. Raises InputError, ImageError."""
    with open_file() as file:
        total = container.total(file)
    pictures = container.pictures(open_file(), "", PurePath("picture"))
    if next(pictures, None) is None:
        raise ImageError(_NONE)
    return total


def unpacked(container: Container, name: str, place: PurePath, open_file: Callable[[], BinaryIO]) -> Iterator[Picture]:
    """The pictures of a container that is opened when the first is taken."""
    yield from container.pictures(open_file(), name, place)


def with_error_entry(name: str, place: PurePath, pictures: Iterable[Picture]) -> Iterator[Picture]:
    """The pictures; where they break off, or where there are none, one more that tells why."""
    some = False
    try:
        for picture in pictures:
            some = True
            yield picture
    except (ImageError, InputError) as error:
        yield Picture(name, place, FailedContent(f"breaks off here: {error}" if some else str(error)))
    except OSError as error:
        yield Picture(name, place, FailedContent(f"cannot be read ({error.strerror or error})"))
    else:
        if not some:
            yield Picture(name, place, FailedContent(_NONE))


_NONE = f"holds no file that ends in {', '.join(sorted(SUFFIXES))}"
