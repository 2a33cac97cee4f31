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

from benchmarks.studies.decoder_files.samples import (
    HEIGHT,
    LOSSY,
    WIDTH,
    DecoderCase,
    Samples,
    blend_with_white,
    encode_image,
    expected_pixels,
    ramps,
)

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


def jpegs() -> Iterator[DecoderCase]:
    """Yield JPEGs: channels x progressive, colour markers, and several images in a file."""
    grey, rgb = ramps(1, 8).squeeze(), ramps(3, 8)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    images = {"grey": Image.fromarray(grey), "RGB": Image.fromarray(rgb), "CMYK": cmyk}
    for (name, image), progressive in product(images.items(), (False, True)):
        data = encode_image(image, "JPEG", quality=95, progressive=progressive)
        truth = np.dstack([grey] * 3) if name == "grey" else rgb
        yield DecoderCase(f"JPEG {name} {'progressive' if progressive else 'baseline'}", data, truth, LOSSY)
    stored_rgb = encode_image(Image.fromarray(rgb), "JPEG", quality=95, keep_rgb=True)
    yield DecoderCase("JPEG RGB without YCbCr", stored_rgb, rgb, LOSSY)
    unmarked = encode_image(cmyk, "JPEG", quality=95)
    start = unmarked.index(b"\xff\xee")
    unmarked = unmarked[:start] + unmarked[start + 2 + int.from_bytes(unmarked[start + 2 : start + 4]) :]
    yield DecoderCase(
        "JPEG CMYK without Adobe's marker", unmarked, expected_pixels(255 - np.asarray(cmyk), 8, "separated", ""), LOSSY
    )
    more_images = [Image.new("RGB", (WIDTH, HEIGHT))]
    yield DecoderCase(
        "MPO", encode_image(images["RGB"], "MPO", save_all=True, append_images=more_images, quality=95), rgb, LOSSY
    )


def orientations() -> Iterator[DecoderCase]:
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
    for (kind, encode_options), (orientation, turn) in product(options.items(), UPRIGHT.items()):
        exif = Image.Exif()
        exif[274] = orientation
        data = encode_image(Image.fromarray(rgb), kind, exif=exif.tobytes(), **encode_options)
        yield DecoderCase(f"{kind} orientation {orientation}", data, turn(rgb), LOSSY)


def codecs() -> Iterator[DecoderCase]:
    """Yield WebP, GIF, AVIF, JPEG 2000 and HEIC: channels x bits x alpha."""
    grey, rgb, rgba = ramps(1, 8).squeeze(), ramps(3, 8), ramps(4, 8)
    blended = blend_with_white(rgba[..., :3] / 255, rgba[..., 3:] / 255)
    yield DecoderCase("WebP", encode_image(Image.fromarray(rgb), "WEBP", lossless=True), rgb)
    yield DecoderCase("WebP alpha", encode_image(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), blended)
    yield DecoderCase(
        "WebP lossy alpha", encode_image(Image.fromarray(rgba), "WEBP", quality=95, alpha_quality=100), blended, LOSSY
    )
    for name, image in {"grey": Image.fromarray(grey), "RGB": Image.fromarray(rgb)}.items():
        truth = np.asarray(image.convert("RGB"))
        yield DecoderCase(f"AVIF {name}", encode_image(image, "AVIF", quality=95), truth, LOSSY)
        yield DecoderCase(f"JPEG 2000 {name}", encode_image(image, "JPEG2000"), truth)
        yield DecoderCase(f"JPEG 2000 {name} codestream", encode_image(image, "JPEG2000", no_jp2=True), truth)
    yield DecoderCase("AVIF alpha", encode_image(Image.fromarray(rgba), "AVIF", quality=95), blended, LOSSY)
    yield DecoderCase("HEIC alpha", encode_image(Image.fromarray(rgba), "HEIF", quality=95), blended, LOSSY)
    yield DecoderCase("JPEG 2000 alpha", encode_image(Image.fromarray(rgba), "JPEG2000"), blended)
    yield DecoderCase("JPEG 2000 YCbCr", encode_image(Image.fromarray(rgb).convert("YCbCr"), "JPEG2000"), rgb, 3)
    paletted = Image.fromarray(rgb).quantize(16)
    yield DecoderCase("GIF", encode_image(paletted, "GIF"), np.asarray(paletted.convert("RGB")))
    opaque = np.asarray(paletted)[..., None] != 3
    truth = blend_with_white(np.asarray(paletted.convert("RGB")) / 255, opaque.astype(float))
    yield DecoderCase("GIF transparent", encode_image(paletted, "GIF", transparency=3), truth)
    yield from more_bits()


def more_bits() -> Iterator[DecoderCase]:
    """Yield channels of more than 8 bits, written by OpenCV if Pillow cannot write them."""
    grey, colours, ten_bit_samples = ramps(1, 16), ramps(3, 16), ramps(3, 10)
    yield DecoderCase(
        "JPEG 2000 grey 16",
        encode_image(Image.fromarray(grey.squeeze()), "JPEG2000"),
        expected_pixels(grey, 16, "", ""),
    )
    for bits in (9, 12):
        samples = ramps(1, bits)
        coded = bytes(imagecodecs.jpeg2k_encode(samples.squeeze(), level=0, bitspersample=bits))
        yield DecoderCase(f"JPEG 2000 grey {bits}", coded, expected_pixels(samples, bits, "", ""))
    lossless_options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    coded = cv2.imencode(".jp2", colours[..., ::-1], lossless_options)[1].tobytes()
    yield DecoderCase("JPEG 2000 RGB 16", coded, expected_pixels(colours, 16, "rgb", ""))
    avif_options = [cv2.IMWRITE_AVIF_QUALITY, 95, cv2.IMWRITE_AVIF_DEPTH, 10]
    yield DecoderCase(
        "AVIF RGB 10",
        cv2.imencode(".avif", ten_bit_samples[..., ::-1], avif_options)[1].tobytes(),
        ten_bit_samples / 1023 * 255,
        LOSSY,
    )
