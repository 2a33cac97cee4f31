"""Frames of a video, by PyAV, which is FFmpeg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, BinaryIO

from PIL import Image

from client.picture import Picture
from client.sources.content import FailedContent, SpillBuffer
from model.errors import InputError, first_line
from model.preprocess import ImageError, check_size

_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,asf,flv"
"""FFmpeg's names. Not among them: playlists, whose entries FFmpeg would open wherever they lie."""
# Degrees counterclockwise by which a frame is to be turned, as its display matrix says.
_UPRIGHT = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}


class _Nameless:
    """A file whose name tells nothing: PyAV wants text there, and a temporary file has a number."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@dataclass(frozen=True)
class Video:
    """Its first picture is frame 0, which is named `<name>#0`, and then each `every`-th."""

    every: int
    holder: SpillBuffer

    def total(self, file: BinaryIO) -> int | None:
        """As its header says, if it does. Raises ImageError, and InputError when PyAV is missing."""
        with _opened(file) as (_, stream):
            return -(-int(stream.frames) // self.every) or None

    def pictures(self, file: BinaryIO, name: str, place: PurePath) -> Iterator[Picture]:
        """The frames, upright. Raises ImageError, and InputError when PyAV is missing."""
        with file, _opened(file) as (container, stream):
            for number, content in enumerate(self._frames(container, stream)):
                if content is not None:
                    yield Picture(f"{name}#{number}", place / f"{number:06}", content)

    def _frames(self, container: Any, stream: Any) -> Iterator[Callable[[], bytes | Image.Image] | None]:
        """Of each frame the content, or None for those that are not wanted."""
        from av.error import FFmpegError

        number = 0
        for packet in _packets(container, stream):
            try:
                frames = packet.decode()
            except FFmpegError as error:
                frames = [error]  # a packet is a frame, as a rule
            for frame in frames:
                yield None if number % self.every else self._content(frame)
                number += 1

    def _content(self, frame: Any) -> Callable[[], bytes | Image.Image]:
        if isinstance(frame, Exception):
            return FailedContent(f"the frame cannot be decoded ({first_line(frame)})")
        if frame.is_corrupt:
            return FailedContent("the frame is damaged")
        try:
            check_size(frame.width, frame.height)
        except ImageError as error:
            return FailedContent(str(error))
        image = frame.to_image()
        turned = image.transpose(_UPRIGHT[frame.rotation]) if frame.rotation in _UPRIGHT else image
        return partial(_image, turned.size, self.holder.hold(turned.tobytes()))


def _image(size: tuple[int, int], content: Callable[[], bytes]) -> Image.Image:
    return Image.frombytes("RGB", size, content())


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    from av.error import FFmpegError

    try:
        yield from container.demux(stream)
    except FFmpegError as error:
        raise ImageError(f"cannot be read on ({first_line(error)})") from error


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError("videos are read with PyAV; install it with: pip install 'tritonkit[video]'") from error
    try:
        container = av.open(_Nameless(file), metadata_errors="replace", options={"format_whitelist": _FORMATS})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"is no video that can be opened; {_FORMATS} can") from error
    with container:
        if not container.streams.video:
            raise ImageError("holds no stream of pictures")
        yield container, container.streams.video[0]
