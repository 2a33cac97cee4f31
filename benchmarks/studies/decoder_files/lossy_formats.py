"""JPEG, WebP, GIF, AVIF, JPEG 2000, HEIC: channels, alpha and orientations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image

from benchmarks.studies.decoder_files.samples import HEIGHT, LOSSY, WIDTH, Cell, Samples, on_white, ramps, saved, shown

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


def jpegs() -> Iterator[Cell]:
    """Yield JPEGs: channels x progressive, colour markers, and several images in a file."""
    grey, rgb = ramps(1, 8).squeeze(), ramps(3, 8)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    each = {"grey": Image.fromarray(grey), "RGB": Image.fromarray(rgb), "CMYK": cmyk}
    for (name, image), progressive in product(each.items(), (False, True)):
        data = saved(image, "JPEG", quality=95, progressive=progressive)
        truth = np.dstack([grey] * 3) if name == "grey" else rgb
        yield Cell(f"JPEG {name} {'progressive' if progressive else 'baseline'}", data, truth, LOSSY)
    stored_rgb = saved(Image.fromarray(rgb), "JPEG", quality=95, keep_rgb=True)
    yield Cell("JPEG RGB without YCbCr", stored_rgb, rgb, LOSSY)
    bare = saved(cmyk, "JPEG", quality=95)
    start = bare.index(b"\xff\xee")
    bare = bare[:start] + bare[start + 2 + int.from_bytes(bare[start + 2 : start + 4]) :]
    yield Cell("JPEG CMYK without Adobe's marker", bare, shown(255 - np.asarray(cmyk), 8, "separated", ""), LOSSY)
    further = [Image.new("RGB", (WIDTH, HEIGHT))]
    yield Cell("MPO", saved(each["RGB"], "MPO", save_all=True, append_images=further, quality=95), rgb, LOSSY)


def orientations() -> Iterator[Cell]:
    """Yield EXIF orientations x formats that support EXIF."""
    rgb = ramps(3, 8)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95},
        "PNG": {},
        "TIFF": {},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95},
        "HEIF": {"quality": 95},
    }
    pillow_heif.register_heif_opener()
    for (kind, how), (orientation, turn) in product(options.items(), UPRIGHT.items()):
        exif = Image.Exif()
        exif[274] = orientation
        data = saved(Image.fromarray(rgb), kind, exif=exif.tobytes(), **how)
        yield Cell(f"{kind} orientation {orientation}", data, turn(rgb), LOSSY)


def codecs() -> Iterator[Cell]:
    """Yield WebP, GIF, AVIF, JPEG 2000 and HEIC: channels x bits x alpha."""
    grey, rgb, rgba = ramps(1, 8).squeeze(), ramps(3, 8), ramps(4, 8)
    clear = on_white(rgba[..., :3] / 255, rgba[..., 3:] / 255)
    yield Cell("WebP", saved(Image.fromarray(rgb), "WEBP", lossless=True), rgb)
    yield Cell("WebP alpha", saved(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), clear)
    yield Cell("WebP lossy alpha", saved(Image.fromarray(rgba), "WEBP", quality=95, alpha_quality=100), clear, LOSSY)
    for name, image in {"grey": Image.fromarray(grey), "RGB": Image.fromarray(rgb)}.items():
        truth = np.asarray(image.convert("RGB"))
        yield Cell(f"AVIF {name}", saved(image, "AVIF", quality=95), truth, LOSSY)
        yield Cell(f"JPEG 2000 {name}", saved(image, "JPEG2000"), truth)
        yield Cell(f"JPEG 2000 {name} codestream", saved(image, "JPEG2000", no_jp2=True), truth)
    yield Cell("AVIF alpha", saved(Image.fromarray(rgba), "AVIF", quality=95), clear, LOSSY)
    yield Cell("HEIC alpha", saved(Image.fromarray(rgba), "HEIF", quality=95), clear, LOSSY)
    yield Cell("JPEG 2000 alpha", saved(Image.fromarray(rgba), "JPEG2000"), clear)
    yield Cell("JPEG 2000 YCbCr", saved(Image.fromarray(rgb).convert("YCbCr"), "JPEG2000"), rgb, 3)
    few = Image.fromarray(rgb).quantize(16)
    yield Cell("GIF", saved(few, "GIF"), np.asarray(few.convert("RGB")))
    opaque = np.asarray(few)[..., None] != 3
    truth = on_white(np.asarray(few.convert("RGB")) / 255, opaque.astype(float))
    yield Cell("GIF transparent", saved(few, "GIF", transparency=3), truth)
    yield from more_bits()


def more_bits() -> Iterator[Cell]:
    """Yield channels of more than 8 bits, written by OpenCV if Pillow cannot write them."""
    deep, colours, ten = ramps(1, 16), ramps(3, 16), ramps(3, 10)
    yield Cell("JPEG 2000 grey 16", saved(Image.fromarray(deep.squeeze()), "JPEG2000"), shown(deep, 16, "", ""))
    for bits in (9, 12):
        few = ramps(1, bits)
        coded = bytes(imagecodecs.jpeg2k_encode(few.squeeze(), level=0, bitspersample=bits))
        yield Cell(f"JPEG 2000 grey {bits}", coded, shown(few, bits, "", ""))
    whole = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    coded = cv2.imencode(".jp2", colours[..., ::-1], whole)[1].tobytes()
    yield Cell("JPEG 2000 RGB 16", coded, shown(colours, 16, "rgb", ""))
    good = [cv2.IMWRITE_AVIF_QUALITY, 95, cv2.IMWRITE_AVIF_DEPTH, 10]
    yield Cell("AVIF RGB 10", cv2.imencode(".avif", ten[..., ::-1], good)[1].tobytes(), ten / 1023 * 255, LOSSY)
