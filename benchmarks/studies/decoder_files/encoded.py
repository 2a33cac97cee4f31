"""Files that Pillow, OpenCV and imagecodecs encode: JPEG, WebP, GIF, AVIF, JPEG 2000, HEIC and rare TIFFs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image

from benchmarks.studies.decoder_files.samples import HEIGHT, LOSSY, WIDTH, DecoderCase, Samples, blend_with_white, ramps

QUALITY = {"quality": 95}
LOSSLESS = {"lossless": True}
PILLOW_FILES: tuple[tuple[str, str, str, dict[str, Any], float], ...] = (
    ("JPEG grey baseline", "L", "JPEG", QUALITY, LOSSY),
    ("JPEG grey progressive", "L", "JPEG", {**QUALITY, "progressive": True}, LOSSY),
    ("JPEG RGB baseline", "RGB", "JPEG", QUALITY, LOSSY),
    ("JPEG RGB progressive", "RGB", "JPEG", {**QUALITY, "progressive": True}, LOSSY),
    ("JPEG CMYK baseline", "CMYK", "JPEG", QUALITY, LOSSY),
    ("JPEG CMYK progressive", "CMYK", "JPEG", {**QUALITY, "progressive": True}, LOSSY),
    ("JPEG RGB without YCbCr", "RGB", "JPEG", {**QUALITY, "keep_rgb": True}, LOSSY),
    ("MPO", "RGB", "MPO", {**QUALITY, "save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}, LOSSY),
    ("WebP", "RGB", "WEBP", LOSSLESS, 1.01),
    ("WebP alpha", "RGBA", "WEBP", {**LOSSLESS, "exact": True}, 1.01),
    ("WebP lossy alpha", "RGBA", "WEBP", {**QUALITY, "alpha_quality": 100}, LOSSY),
    ("AVIF grey", "L", "AVIF", QUALITY, LOSSY),
    ("AVIF RGB", "RGB", "AVIF", QUALITY, LOSSY),
    ("AVIF alpha", "RGBA", "AVIF", QUALITY, LOSSY),
    ("HEIC alpha", "RGBA", "HEIF", QUALITY, LOSSY),
    ("JPEG 2000 grey", "L", "JPEG2000", {}, 1.01),
    ("JPEG 2000 grey codestream", "L", "JPEG2000", {"no_jp2": True}, 1.01),
    ("JPEG 2000 grey 16", "I;16", "JPEG2000", {}, 1.01),
    ("JPEG 2000 RGB", "RGB", "JPEG2000", {}, 1.01),
    ("JPEG 2000 RGB codestream", "RGB", "JPEG2000", {"no_jp2": True}, 1.01),
    ("JPEG 2000 alpha", "RGBA", "JPEG2000", {}, 1.01),
    ("JPEG 2000 YCbCr", "YCbCr", "JPEG2000", {}, 3),
    ("GIF", "P", "GIF", {}, 1.01),
    ("TIFF ycbcr 8 jpeg", "YCbCr", "TIFF", {**QUALITY, "compression": "jpeg"}, LOSSY),
    ("TIFF 1 group3", "1", "TIFF", {"compression": "group3"}, 1.01),
    ("TIFF 1 group4", "1", "TIFF", {"compression": "group4"}, 1.01),
    ("TIFF 1 tiff_ccitt", "1", "TIFF", {"compression": "tiff_ccitt"}, 1.01),
)
"""Name, mode of the image, format, options and tolerance."""
EXIF_FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": QUALITY,
    "PNG": {},
    "TIFF": {},
    "WEBP": LOSSLESS,
    "AVIF": QUALITY,
    "HEIF": QUALITY,
}
UPRIGHT: dict[int, Callable[[Samples], Samples]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def encoded_files() -> Iterator[DecoderCase]:
    """Yield the table, EXIF orientations x formats that support EXIF, and files that need more than options."""
    pillow_heif.register_heif_opener()
    for name, mode, kind, options, tolerance in PILLOW_FILES:
        image, truth = picture(mode)
        yield DecoderCase(name, encode(image, kind, **options), truth, tolerance)
    rgb, truth = picture("RGB")
    for (kind, options), (orientation, turn) in product(EXIF_FORMATS.items(), UPRIGHT.items()):
        exif = Image.Exif()
        exif[274] = orientation
        data = encode(rgb, kind, exif=exif.tobytes(), **options)
        yield DecoderCase(f"{kind} orientation {orientation}", data, turn(truth), LOSSY)
    paletted, colours = picture("P")
    opaque = np.asarray(paletted)[..., None] != 3
    yield DecoderCase("GIF transparent", encode(paletted, "GIF", transparency=3), np.where(opaque, colours, 255))
    cmyk, _ = picture("CMYK")
    data = encode(cmyk, "JPEG", **QUALITY)
    marker = data.index(b"\xff\xee")
    data = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4]) :]
    inverted = np.asarray(cmyk) / 255
    yield DecoderCase("JPEG CMYK without Adobe's marker", data, inverted[..., :3] * inverted[..., 3:] * 255, LOSSY)
    for bits in (9, 12):
        samples = ramps(1, bits)
        data = bytes(imagecodecs.jpeg2k_encode(samples.squeeze(), level=0, bitspersample=bits))
        yield DecoderCase(f"JPEG 2000 grey {bits}", data, samples / (2**bits - 1) * 255)
    for name, suffix, bits, numbers, tolerance in (
        ("JPEG 2000 RGB 16", ".jp2", 16, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000], 1.01),
        ("AVIF RGB 10", ".avif", 10, [cv2.IMWRITE_AVIF_QUALITY, 95, cv2.IMWRITE_AVIF_DEPTH, 10], LOSSY),
    ):
        samples = ramps(3, bits)
        data = cv2.imencode(suffix, samples[..., ::-1], numbers)[1].tobytes()
        yield DecoderCase(name, data, samples / (2**bits - 1) * 255, tolerance)


def picture(mode: str) -> tuple[Image.Image, Samples]:
    """Return an image of a mode of Pillow, and its pixels on white."""
    if mode == "RGBA":
        rgba = ramps(4, 8)
        return Image.fromarray(rgba), blend_with_white(rgba[..., :3] / 255, rgba[..., 3:] / 255)
    if mode == "I;16":
        return Image.fromarray(ramps(1, 16).squeeze()), ramps(1, 16) / 65535 * 255
    grey, rgb = ramps(1, 8), ramps(3, 8)
    if mode == "L":
        return Image.fromarray(grey.squeeze()), grey
    if mode == "1":
        return Image.fromarray(grey.squeeze() > 127), (grey > 127) * 255
    if mode == "P":
        paletted = Image.fromarray(rgb).quantize(16)
        return paletted, np.asarray(paletted.convert("RGB"))
    return Image.fromarray(rgb).convert(mode), rgb


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
