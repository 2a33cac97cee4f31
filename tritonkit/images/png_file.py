"""Prepares a PNG for Pillow: removes chunks that pixels do not need, and finds its orientation.

Names and numbers are those of the PNG specification, third edition.
"""

from __future__ import annotations

import struct
import zlib

from .picture_file import PictureFile, unsupported_error

_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_GREY, _COLOURS, _PALETTE = 0, 2, 3
_TRANSPARENT_BYTES = {_GREY: 2, _COLOURS: 6}
"""The length of tRNS by colour type, where it is fixed."""


def png_file(data: bytes) -> PictureFile:
    """Remove the chunks that pixels do not need: texts, profiles, times, further frames of an animation.

    Raises ImageError for an unsupported variant.
    """
    view, exif, clear, at = memoryview(data), b"", None, 8
    chunks: list[bytes | memoryview] = [data[:8]]
    bits, colour = (data[24:26] + b"\0\0")[:2]
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + length] if kind in (b"tRNS", b"eXIf") else b"", at + 12 + length
        if kind in _NEEDED or not kind.isalpha():  # Pillow refuses an invalid chunk
            chunks.append(view[at:end])
        elif kind == b"tRNS" and len(body) != _TRANSPARENT_BYTES.get(colour, len(body)):
            pass  # as in libpng, a chunk of another length is ignored
        elif kind == b"tRNS" and (bits, colour) == (16, _GREY):
            clear = int.from_bytes(body)
        elif kind == b"tRNS":
            chunks.append(_transparency(body, bits, colour))
        elif kind == b"eXIf":
            exif = exif or b"Exif\0\0" + body
        elif kind[:1].isupper():  # 5.4: a decoder must refuse an unknown critical chunk
            raise unsupported_error(f"PNG with a chunk {kind.decode()}")
        if kind == b"IEND":
            break
        at = end
    return PictureFile("PNG", b"".join(chunks), exif, transparent_level=clear)


def _transparency(body: bytes, bits: int, colour: int) -> bytes:
    """Return the chunk tRNS with 8-bit levels, as Pillow expects. Raises ImageError if that is impossible."""
    if colour == _COLOURS and bits == 16:
        raise unsupported_error("PNG with 16 bits per channel and one colour that is transparent")
    if colour in (_GREY, _COLOURS):
        max_level = 2**bits - 1
        levels = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
        body = struct.pack(f">{len(levels)}H", *((level & max_level) * 255 // max_level for level in levels))
    elif colour == _PALETTE:
        body = body[:256]
    else:
        return b""  # 11.3.1.1: not allowed with an alpha channel
    return struct.pack(">I4s", len(body), b"tRNS") + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
