"""Prepares a JPEG for Pillow: removes segments that pixels do not need, and checks that the file is complete.

Names and numbers are those of ITU-T T.81, annex B; APP0 and APP14 are of JFIF 1.02 and of Adobe's technical note 5116.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from PIL import Image, ImageChops

from .picture_file import ImageError, PictureFile, unsupported_error

_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # and JPEG-LS
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_APPLICATION = frozenset({*range(0xE0, 0xF0), 0xFE})
_END = b"\xff\xd9"
_FILLINGS = (b"\x55" * 64, b"\xaa" * 64, b"\xfe" * 64)
"""Byte patterns that are not image data."""
_GAP = bytes(16)


def jpeg_file(data: bytes) -> PictureFile:
    """Remove the segments that pixels do not need. Raises ImageError for an unsupported variant."""
    view, exif, at, adobe, channels = memoryview(data), b"", 2, False, 0
    segments: list[bytes | memoryview] = [b"\xff\xd8"]
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker in _FRAMES:
            channels = _check_frame(marker, body)
        needed = marker not in _APPLICATION
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif = exif or body
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = needed = True
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            needed = True
        if needed:
            segments.append(view[start:end])
        at = end
    if channels == 4 and not adobe:
        raise unsupported_error(
            "JPEG with four channels that does not say whether its inks are inverted (no Adobe marker)"
        )
    return PictureFile("JPEG", b"".join([*segments, view[at:]]), exif)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each complete segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in (_SOS, _EOI) or end > len(data):
            return
        yield marker, at, end
        at = end


def _check_frame(marker: int, body: bytes) -> int:
    """Return the number of channels of a frame. Raises ImageError for an unsupported frame."""
    if len(body) < 6:
        raise ImageError("the JPEG header is broken (its frame is cut short)", code="image.header")
    if marker not in _READ_FRAMES:
        raise unsupported_error("JPEG that is lossless or hierarchical")
    if body[0] != 8:
        raise unsupported_error(f"JPEG with {body[0]} bits per channel")
    if body[5] not in (1, 3, 4):
        raise unsupported_error(f"JPEG with {body[5]} channels")
    return body[5]


def with_end_marker(data: bytes) -> bytes:
    """Return the JPEG with its end marker, which may be missing. Raises ImageError if pixels are missing too.

    A decoder invents missing pixels from the bytes that follow. If different bytes result in the same image, no pixel
    was missing.
    """
    if data.rfind(_END) >= 0:
        return data
    data = data.removesuffix(b"\xff")  # the first half of the marker
    # A truncated copy may end with zeros.
    if data.endswith(_GAP) or not (_has_all_scans(data) and _has_all_restarts(data) and _is_complete(data)):
        raise ImageError("the JPEG data is broken or cut short (its end is missing)", code="image.truncated")
    return data + _END


def _is_complete(data: bytes) -> bool:
    first = _open(data + _END)
    others = (_open(data + filling + _END) for filling in _FILLINGS)  # one at a time, as they may be large
    return all(ImageChops.difference(first, other).getbbox() is None for other in others)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("JPEG",))


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans contain every coefficient of every channel to its last bit, as a complete progressive JPEG."""
    missing: set[tuple[int, int]] = set()
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            missing = {(channel, number) for channel in data[start + 10 : end : 3] for number in range(64)}
    for scan in re.finditer(rb"\xff\xda..(.)", data, re.DOTALL):
        count = 2 * scan[1][0]
        first, last, bits = data[scan.end() + count : scan.end() + count + 3].ljust(3, b"\xff")
        if not bits & 15:
            channels = data[scan.end() : scan.end() + count : 2]
            missing -= {(channel, number) for channel in channels for number in range(first, last + 1)}
    return not missing


def _has_all_restarts(data: bytes) -> bool:
    """Whether a scan with restart intervals (B.2.4.4) has all of them. False for several scans."""
    interval, width, height, factors = 0, 0, 0, b"\x11"
    for marker, start, end in _segments(data):
        if marker == 0xDD:
            interval = int.from_bytes(data[start + 4 : start + 6])
        elif marker in _FRAMES:
            height, width = (int.from_bytes(data[at : at + 2]) for at in (start + 5, start + 7))
            factors = data[start + 11 : end : 3] if data[start + 9] > 1 else b"\x11"
    if not interval:
        return True
    across, down = 8 * max(factor >> 4 for factor in factors), 8 * max(factor & 15 for factor in factors)
    units = -(-width // across) * -(-height // down)
    restarts = len(re.findall(rb"\xff[\xd0-\xd7]", data))
    return data.count(b"\xff\xda") == 1 and restarts == -(-units // interval) - 1
