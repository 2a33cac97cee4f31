"""Accepts the TIFF layouts that Pillow is known to decode correctly, and refuses all others.

Tags and values are those of TIFF 6.0. The accepted layouts were compared with generated images, OpenCV and libvips.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .picture_file import ImageError, PictureFile, unsupported_error

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_NAMES = {0: "grey (white is 0)", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "L*a*b*"}
_FURTHER_NAMES = {0: "a further channel", 1: "premultiplied alpha", 2: "alpha"}
_RAW, _FAX, _JPEG = 1, frozenset({2, 3, 4}), 7
_COMPRESSIONS = frozenset({_RAW, *_FAX, 5, _JPEG, 8, 32946, 32773, 50000})
"""None, CCITT, LZW, JPEG, deflate (two numbers), PackBits, Zstandard."""
_OF_JPEG = (_BLACK_IS_ZERO, _RGB, _YCBCR)
_BITS = {
    _WHITE_IS_ZERO: (1, 2, 4, 8, 16),
    _BLACK_IS_ZERO: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _CMYK: (8, 16),
    _YCBCR: (8,),
}
_ALPHA = frozenset({(), (0,), (1,), (2,)})
"""Extra samples: none, unspecified, premultiplied alpha, alpha."""
_FURTHER = {(_BLACK_IS_ZERO, 8): _ALPHA, (_RGB, 8): _ALPHA, (_RGB, 16): _ALPHA, (_CMYK, 8): frozenset({(), (0,)})}
_PHOTOMETRIC_TAG = 262


@dataclass(frozen=True)
class _Layout:
    """The layout of the samples of the first page, from its tags."""

    colours: int
    bits: int
    further: tuple[int, ...]
    compression: int
    in_planes: bool

    def unsupported_error(self) -> ImageError:
        """Create the error for this layout."""
        further = "".join(f" and {_FURTHER_NAMES.get(sample, 'a further channel')}" for sample in self.further)
        planes, coded = " in planes" if self.in_planes else "", f"in compression {self.compression}"
        coded = "uncompressed" if self.compression == _RAW else coded
        return unsupported_error(f"TIFF with {self.bits}-bit {_NAMES[self.colours]} samples{further}{planes}, {coded},")


def tiff_file(data: bytes) -> PictureFile:
    """Accept a TIFF of a supported layout. Raises ImageError that names any other layout."""
    tags = _tags(data)
    layout = _layout(tags)
    further = _FURTHER.get((layout.colours, layout.bits), {()})
    if layout.bits not in _BITS[layout.colours] or layout.further not in further or not _is_coding_supported(layout):
        raise layout.unsupported_error()
    # Pillow would misread these pages, inks and palettes.
    if _number(tags, 254, 0) & 1:
        raise unsupported_error("TIFF whose first page is a thumbnail, as in a camera's raw file,")
    if layout.bits > 1 and _number(tags, 266, 1) != 1:
        raise unsupported_error("TIFF with the bits of each byte reversed")
    if layout.colours == _CMYK and _number(tags, 332, 1) != 1:
        raise unsupported_error("TIFF with other inks than cyan, magenta, yellow and black")
    if layout.colours == _PALETTE and 0 < max(_numbers(tags, 320, (65535,))) < 256:
        raise unsupported_error("TIFF with a palette of 8-bit levels, where 16 bits are the rule,")
    _check_parts(tags, layout)
    if layout.colours == _WHITE_IS_ZERO and layout.bits == 16:
        # Pillow reads this layout in only one byte order, and does not invert it.
        return PictureFile("TIFF", _with_black_as_zero(data, data[2:3] == b"\x2b"), inverted=True)
    return PictureFile("TIFF", data)


def _tags(data: bytes) -> ImageFileDirectory_v2:
    """Read the tags of the first page. Raises ImageError."""
    if data[:4] == b"MM\0\x2b":
        raise unsupported_error("BigTIFF with its most significant bytes first")
    file = io.BytesIO(data)
    try:
        tags = ImageFileDirectory_v2(file.read(16 if data[2:3] == b"\x2b" else 8))
        file.seek(tags.next)
        tags.load(file)
        for tag in (256, 257):
            tags[tag]
    except Exception as error:
        raise ImageError(f"the TIFF header is broken ({error})", code="image.header") from error
    return tags


def _layout(tags: ImageFileDirectory_v2) -> _Layout:
    """Read the layout from the tags. Raises ImageError for unknown or contradictory tags."""
    colours, count, further = _number(tags, _PHOTOMETRIC_TAG, -1), _number(tags, 277, 1), _numbers(tags, 338, ())
    if colours < 0:
        raise unsupported_error("TIFF without a photometric interpretation")
    if colours not in _COLOURS:
        raise unsupported_error(f"TIFF with {_NAMES.get(colours, 'unknown')} samples")
    bits = _numbers(tags, 258, (1,))
    if count != _COLOURS[colours] + len(further) or len(bits) not in (1, count):
        raise unsupported_error(f"TIFF with {count} samples per pixel, of which some are not declared")
    if len(set(bits)) > 1:
        raise unsupported_error(f"TIFF with samples of {', '.join(map(str, bits))} bits")
    if signs := set(_numbers(tags, 339, (1,))) - {1}:
        kind = {2: "signed", 3: "floating-point"}.get(max(signs), "other than whole")
        raise unsupported_error(f"TIFF with {kind} numbers, which have no agreed range,")
    in_planes = count > 1 and _number(tags, 284, 1) == 2
    return _Layout(colours, bits[0], further, _number(tags, 259, _RAW), in_planes)


def _is_coding_supported(layout: _Layout) -> bool:
    """Whether compression and planes are supported for these samples."""
    if layout.in_planes and (
        layout.colours not in (_RGB, _CMYK)
        or layout.further not in ((), (2,))
        or layout.compression == _JPEG
        or (layout.bits == 16 and layout.compression == _RAW)
    ):
        return False
    if layout.compression == _JPEG or layout.colours == _YCBCR:
        return layout.compression == _JPEG and layout.colours in _OF_JPEG and layout.bits == 8 and not layout.further
    return layout.compression in _COMPRESSIONS and (layout.compression not in _FAX or layout.bits == 1)


def _check_parts(tags: ImageFileDirectory_v2, layout: _Layout) -> None:
    """Raise ImageError if the tags list fewer strips or tiles than the image needs: Pillow would leave those black."""
    width, height = _number(tags, 256, 0), _number(tags, 257, 0)
    across, down = (_number(tags, 322, width), _number(tags, 323, height)) if 324 in tags else (width, height)
    down = down if 324 in tags else min(_number(tags, 278, height), height)
    planes = _COLOURS[layout.colours] + len(layout.further) if layout.in_planes else 1
    expected = -(-width // max(across, 1)) * -(-height // max(down, 1)) * planes
    if (listed := len(_numbers(tags, 324 if 324 in tags else 273, ()))) < expected:
        raise ImageError(
            f"the TIFF data is broken or cut short ({listed} of its {expected} parts are listed)",
            code="image.truncated",
        )


def _number(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return (*_numbers(tags, tag, (default,)), default)[0]


def _numbers(tags: ImageFileDirectory_v2, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the integers of a tag. Raises ImageError for other values."""
    value: Any = tags.get(tag, default)
    value = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in value):
        raise ImageError(f"the TIFF header is broken (tag {tag} is not a number)", code="image.header")
    return tuple(value)


def _with_black_as_zero(data: bytes, big: bool) -> bytes:
    """Return the file with a photometric interpretation in which 0 is black. big: whether it is a BigTIFF."""
    order: Literal["big", "little"] = "big" if data[:2] == b"MM" else "little"
    counter, entry, value = (8, 20, 12) if big else (2, 12, 8)
    start = int.from_bytes(data[8:16] if big else data[4:8], order)
    entries = int.from_bytes(data[start : start + counter], order)
    changed = bytearray(data)
    for at in range(start + counter, start + counter + entry * entries, entry):
        if int.from_bytes(data[at : at + 2], order) == _PHOTOMETRIC_TAG:
            changed[at + value : at + value + 2] = _BLACK_IS_ZERO.to_bytes(2, order)
            break
    return bytes(changed)
