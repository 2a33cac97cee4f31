"""Which kinds of pictures are read, and what a file is by its first bytes. Stands alone.

Whatever a decoder does not know for certain is refused here by name, before it could pass it on as pixels.
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
"""Only these decoders are tried, whatever a file is named."""
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".heic", ".heif"),
    }
)
"""File names that end so are pictures when a folder is searched."""

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
"""Where each of the kinds that are not read has which bytes."""
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
    """What a file is, as its decoder is to read it. Raises ImageError where it is none of the kinds that are read."""
    kind = _format_of(data)
    if kind is None:
        starts = ((name, data.startswith(magic, at if at >= 0 else len(data) + at)) for at, magic, name in _UNSUPPORTED)
        name = "SVG" if b"<svg" in data[:1024] else next((name for name, there in starts if there), None)
        raise unsupported_error(name) if name else ImageError(f"not a picture; {', '.join(FORMATS)} can be read")
    check = _READERS.get(kind)
    return check(data) if check else PictureFile(kind, data)


def open_header(file: PictureFile) -> ImageFile:
    """The picture, of which the header alone has been read. Raises ImageError."""
    _load_decoder(file.format)
    open_file: Any = Image.OPEN[file.format][0]
    try:
        image: ImageFile = open_file(io.BytesIO(file.data), "")
    except Exception as error:
        raise ImageError(f"the {file.format} header is broken, or of a kind that is not read ({error})") from error
    _check_opened(file, image)
    return image


def _check_opened(file: PictureFile, image: ImageFile) -> None:
    """Raise ImageError for what Pillow opens and misreads."""
    # It takes a palette of greys for none, and the bits of an index for those of a level.
    if file.format == "BMP" and {"1": 1, "L": 8}.get(image.mode, bits := _bmp_bits(file.data)) != bits:
        raise unsupported_error(f"BMP with {bits} bits a pixel and this palette of greys")
    # The specification would have the background's colour around it, browsers nothing, Pillow the first colour.
    if file.format == "GIF" and "transparency" not in image.info and image.tile[0][1] != (0, 0, *image.size):
        raise unsupported_error("GIF whose first frame does not cover the whole picture")


def _format_of(data: bytes) -> str | None:
    """One of FORMATS by the first bytes; none for any other."""
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
    """Have Pillow know a format. Raises ImageError where a package is missing, or is too old."""
    if kind == "HEIF":
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            raise ImageError(
                "HEIC is not read without the package pillow-heif: pip install 'tritonkit[heic]'; or save it as JPEG"
            ) from error
        return
    try:
        importlib.import_module(f"PIL.{_PLUGINS[kind]}")
    except ImportError as error:
        raise unsupported_error(f"{kind} needs a newer Pillow than {PIL.__version__} and") from error


def _bmp_bits(data: bytes) -> int:
    return data[24 if data[14] == 12 else 28]


def _jpeg2000_file(data: bytes) -> PictureFile:
    """Accept JPEG 2000 of grey with 8 or 16 bits, or of RGB with 8 (ISO/IEC 15444-1, annexes A and I)."""
    start = data.find(_CODESTREAM)
    if start < 0 or len(data) < start + 42:
        raise ImageError("the JPEG2000 header is broken (there is no codestream)")
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
    """Hide EXIF, which could make Pillow refuse the file: how it is turned, the file says itself (ISO/IEC 23008-12)."""
    return PictureFile("AVIF", re.sub(rb"(infe.{8})Exif", rb"\1free", data, flags=re.DOTALL))


_READERS: dict[str, Callable[[bytes], PictureFile]] = {
    "JPEG": jpeg_file,
    "PNG": png_file,
    "TIFF": tiff_file,
    "JPEG2000": _jpeg2000_file,
    "AVIF": _avif_file,
}
