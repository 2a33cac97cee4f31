"""The supported image formats, detected by the first bytes of a file.

Variants that Pillow may misread are refused here with an error, so that they never become wrong pixels.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
from collections.abc import Callable
from typing import Any

import PIL
from PIL import Image
from PIL.ImageFile import ImageFile

from .jpeg_file import jpeg_file
from .picture_file import ImageError, PictureFile, unsupported_error
from .png_file import png_file
from .tiff_file import tiff_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
"""The supported formats, independent of the file name."""
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".heic", ".heif"),
    }
)
"""Suffixes of image files in a folder that is searched."""

_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_MAGIC_NUMBERS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "TIFF"),
    _JP2: "JPEG2000",
    _CODESTREAM: "JPEG2000",
}
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_UNSUPPORTED = (
    (0, b"\0\0\1\0", "ICO"),
    (0, b"8BPS", "PSD (Photoshop)"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc\1", "JPEG XR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM (floating-point pixels, which have no agreed range)"),
    (0, b"Pf\n", "PFM (floating-point pixels, which have no agreed range)"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (4, b"ftyp", "MP4, or another of its family,"),
    (-18, b"TRUEVISION-XFILE", "TGA"),
)
"""Offset, bytes and name of known formats that are not supported."""
_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
}


def picture_file(data: bytes) -> PictureFile:
    """Detect the format and prepare the file for Pillow. Raises ImageError for an unsupported format."""
    kind = _format_of(data)
    if kind is None:
        starts = ((name, data.startswith(magic, at if at >= 0 else len(data) + at)) for at, magic, name in _UNSUPPORTED)
        name = "SVG" if b"<svg" in data[:1024] else next((name for name, there in starts if there), None)
        if name:
            raise unsupported_error(name)
        raise ImageError(
            f"not an image in a supported format; supported: {', '.join(FORMATS)}", code="image.unknown_format"
        )
    check = _READERS.get(kind)
    return check(data) if check else PictureFile(kind, data)


def open_header(file: PictureFile) -> ImageFile:
    """Open an image with Pillow, which reads only the header. Raises ImageError."""
    _load_decoder(file.format)
    open_file: Any = Image.OPEN[file.format][0]
    try:
        image: ImageFile = open_file(io.BytesIO(file.data), "")
    except Exception as error:
        raise ImageError(
            f"the {file.format} header is broken, or its variant is not supported ({error})", code="image.header"
        ) from error
    # Pillow ignores a palette of greys, and reads the bits of an index as a level.
    if file.format == "BMP":
        bits = file.data[24 if file.data[14] == 12 else 28]
        if {"1": 1, "L": 8}.get(image.mode, bits) != bits:
            raise unsupported_error(f"BMP with {bits} bits per pixel and this palette of greys")
    # Around the frame, the specification requires the background colour, browsers show none, Pillow the first colour.
    if file.format == "GIF" and "transparency" not in image.info and image.tile[0][1] != (0, 0, *image.size):
        raise unsupported_error("GIF whose first frame does not cover the whole image")
    return image


def _format_of(data: bytes) -> str | None:
    """Return one of FORMATS by the first bytes, None for any other."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 4096)]
        brands = {box[at : at + 4] for at in range(0, len(box), 4) if at != 4}  # the second is a version
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIC else None
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0":  # the size of a header
        return "BMP"
    return next((kind for start, kind in _MAGIC_NUMBERS.items() if data.startswith(start)), None)


def _load_decoder(kind: str) -> None:
    """Register a format with Pillow. Raises ImageError if a package is missing or too old."""
    if kind == "HEIF":
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            raise ImageError(
                "HEIC needs the package pillow-heif: pip install 'tritonkit[heic]'; or save it as JPEG",
                code="image.missing_package",
            ) from error
        return
    try:
        importlib.import_module(f"PIL.{_PLUGINS[kind]}")
    except ImportError as error:
        raise unsupported_error(f"{kind} needs a newer Pillow than {PIL.__version__} and") from error


def _jpeg2000_file(data: bytes) -> PictureFile:
    """Accept JPEG 2000 with grey of 8 or 16 bits, or RGB of 8 bits (ISO/IEC 15444-1, annexes A and I)."""
    start = data.find(_CODESTREAM)
    if start < 0 or len(data) < start + 42:
        raise ImageError("the JPEG2000 header is broken (there is no codestream)", code="image.header")
    (channels,) = struct.unpack_from(">H", data, start + 40)
    each = {data[at : at + 3] for at in range(start + 42, start + 42 + 3 * channels, 3)}
    bits, across, down = (next(iter(each), b"") + b"\0\0\0")[:3]
    if channels not in (1, 3):
        raise unsupported_error(f"JPEG 2000 with {channels} channels")
    if len(each) > 1 or (across, down) != (1, 1) or bits > 127:
        raise unsupported_error("JPEG 2000 whose channels differ or are signed")
    if bits + 1 not in ((8, 16) if channels == 1 else (8,)):
        raise unsupported_error(f"JPEG 2000 with {channels} channel{'s' * (channels > 1)} of {bits + 1} bits")
    header = data[:start]
    colours = header.find(b"colr")
    enumerated = colours >= 0 and header[colours + 4] == 1
    if b"pclr" in header or (enumerated and int.from_bytes(header[colours + 7 : colours + 11]) not in (16, 17)):
        raise unsupported_error("JPEG 2000 with a palette, or with other colours than RGB and grey,")
    return PictureFile("JPEG2000", data)


def _avif_file(data: bytes) -> PictureFile:
    """Remove EXIF, which could make Pillow refuse the file; the rotation is stored elsewhere (ISO/IEC 23008-12)."""
    return PictureFile("AVIF", re.sub(rb"(infe.{8})Exif", rb"\1free", data, flags=re.DOTALL))


_READERS: dict[str, Callable[[bytes], PictureFile]] = {
    "JPEG": jpeg_file,
    "PNG": png_file,
    "TIFF": tiff_file,
    "JPEG2000": _jpeg2000_file,
    "AVIF": _avif_file,
}
