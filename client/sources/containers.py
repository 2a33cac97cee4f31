"""Files that contain many images: the common interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import BinaryIO, Protocol, TypeAlias

from client.picture import Picture
from client.sources.content import FailedContent, SpillBuffer
from client.sources.tars import Tar
from client.sources.videos import Video
from client.sources.zips import Zip
from tritonkit.errors import InputError
from tritonkit.images.picture_files import SkippedFiles
from tritonkit.images.preprocess import SUFFIXES, ImageError


class Container(Protocol):
    """Reads pictures from an open archive (zip, tar), or the frames of a video."""

    def total(self, file: BinaryIO) -> int | None:
        """Return the number of pictures; None if it is slow to find out. Raises ImageError."""

    def pictures(self, file: BinaryIO, name: str, relative_path: PurePath) -> Iterator[Picture]:
        """Yield the pictures in order; names and relative paths begin with those of the file.

        Raises ImageError if the file is not such a container or is damaged from here on, ExternalError if content
        cannot be buffered.
        """


ContainerTypes: TypeAlias = Mapping[tuple[str, ...], Container]


def container_types(frame_step: int, buffer: SpillBuffer, skipped: SkippedFiles | None = None) -> ContainerTypes:
    """Return the containers by the endings of file names.

    frame_step: use every Nth video frame. skipped: counts the files in archives that are not images.
    """
    skipped = skipped or SkippedFiles()
    return {
        (".zip",): Zip(skipped),
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"): Tar(buffer, skipped),
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"): Video(frame_step, buffer),
    }


def container_of(name: str, types: ContainerTypes) -> Container | None:
    """Return the container type of a file name, None for other files."""
    return next((container for endings, container in types.items() if name.lower().endswith(endings)), None)


def check_container(container: Container, open_file: Callable[[], BinaryIO]) -> int | None:
    """Read the first picture of a container and return the number of pictures. Raises InputError, ImageError."""
    with open_file() as file:
        total = container.total(file)
    pictures = container.pictures(open_file(), "", PurePath("picture"))
    if next(pictures, None) is None:
        raise ImageError(_NO_PICTURES)
    return total


def with_error_entry(name: str, relative_path: PurePath, pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the pictures, and after an error or without any picture, one more whose content raises the reason."""
    has_pictures = False
    try:
        for picture in pictures:
            has_pictures = True
            yield picture
    except (ImageError, InputError) as error:
        yield Picture(
            name, relative_path, FailedContent(f"cannot be read further: {error}" if has_pictures else str(error))
        )
    except OSError as error:
        yield Picture(name, relative_path, FailedContent(f"cannot be read ({error.strerror or error})"))
    else:
        if not has_pictures:
            yield Picture(name, relative_path, FailedContent(_NO_PICTURES))


_NO_PICTURES = f"contains no file that ends in {', '.join(sorted(SUFFIXES))}"
