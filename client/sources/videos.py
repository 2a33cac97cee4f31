"""Video frames, read by PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

from PIL import Image

from client.picture import Picture
from client.sources.content import FailedContent, SpillBuffer
from tritonkit.errors import InputError, first_line
from tritonkit.images.preprocess import ImageError, check_pixel_count

_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,asf,flv"
"""FFmpeg's names. Playlists are excluded, because FFmpeg would open any file that they name."""
# By the rotation of a frame's display matrix, in degrees counterclockwise.
_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}


class _UnnamedFile:
    """A file without a name: PyAV expects text as the name, and a temporary file's name is a number."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@dataclass(frozen=True)
class Video:
    """A video. Frame 0, named `<name>#0`, and then every Nth frame are its pictures."""

    frame_step: int
    buffer: SpillBuffer

    def total(self, file: BinaryIO) -> int | None:
        """Return the number of pictures from the header. Raises ImageError, and InputError if PyAV is missing."""
        with _open_video(file) as (_, stream):
            return -(-int(stream.frames) // self.frame_step) or None

    def pictures(self, file: BinaryIO, name: str, relative_path: PurePath) -> Iterator[Picture]:
        """Yield the upright frames. Raises ImageError, and InputError if PyAV is missing."""
        with file, _open_video(file) as (container, stream):
            from av.error import FFmpegError

            number, packets = 0, iter(container.demux(stream))
            while True:
                try:
                    packet = next(packets, None)
                except FFmpegError as error:
                    raise ImageError(f"cannot be read further ({first_line(error)})") from error
                if packet is None:
                    return
                try:
                    frames = packet.decode()
                except FFmpegError as error:
                    frames = [error]  # usually a packet contains one frame
                for frame in frames:
                    if number % self.frame_step == 0:
                        yield Picture(f"{name}#{number}", relative_path / f"{number:06}", self._content(frame))
                    number += 1

    def _content(self, frame: Any) -> Callable[[], bytes | Image.Image]:
        if isinstance(frame, Exception):
            return FailedContent(f"the frame cannot be decoded ({first_line(frame)})")
        if frame.is_corrupt:
            return FailedContent("the frame is damaged")
        try:
            check_pixel_count(frame.width, frame.height)
        except ImageError as error:
            return FailedContent(str(error))
        image = frame.to_image()
        upright = image.transpose(_ROTATIONS[frame.rotation]) if frame.rotation in _ROTATIONS else image
        size, stored = upright.size, self.buffer.store(upright.tobytes())
        return lambda: Image.frombytes("RGB", size, stored())


@contextmanager
def _open_video(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    """Open a video and yield its container and its first video stream."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError(
            "videos need PyAV; install it with: pip install 'tritonkit[video]'", code="install.missing_module"
        ) from error
    try:
        container = av.open(_UnnamedFile(file), metadata_errors="replace", options={"format_whitelist": _FORMATS})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"is not a video in a supported format; supported are {_FORMATS}") from error
    with container:
        if not container.streams.video:
            raise ImageError("has no video stream")
        yield container, container.streams.video[0]
