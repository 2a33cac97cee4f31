"""TIFF images that tifffile writes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.studies.decoder_files.samples import LOSSY, DecoderCase, Samples, blend_with_white, ramps


def tiffs() -> Iterator[DecoderCase]:
    """Yield TIFFs: photometric x bits x extra samples x planes x byte order x compression x tiles."""
    axes = (
        ("minisblack", "miniswhite", "rgb", "separated"),
        (8, 16),
        ("", "unspecified", "assocalpha", "unassalpha"),
        ("contig", "separate"),
        ("<", ">"),
        (None, "lzw", "deflate", "packbits"),
        (None, (16, 16)),
        (False, True),
    )
    for photometric, bits, extra, planar, order, compression, tile, big in product(*axes):
        colours = {"rgb": 3, "separated": 4}.get(photometric, 1)
        if (planar == "separate" and colours == 1 and not extra) or (big and (compression, tile) != (None, None)):
            continue
        samples = ramps(colours + bool(extra), bits)
        if extra == "assocalpha":
            colour = samples[..., :-1].astype(float) * samples[..., -1:] / (2**bits - 1)
            samples = np.dstack([np.rint(colour), samples[..., -1:]]).astype(samples.dtype)
        options: dict[str, Any] = {"photometric": photometric, "compression": compression, "tile": tile}
        options |= {"byteorder": order, "bigtiff": big, "extrasamples": [extra] if extra else None}
        if samples.shape[2] > 1:
            options["planarconfig"] = planar
        stored = np.moveaxis(samples, 2, 0) if planar == "separate" else samples
        name = f"{photometric} {bits} {extra or '-'} {planar} {order} {compression or 'raw'}"
        name += f" {'tiles' if tile else 'strips'}{' big' if big else ''}"
        # A channel of 16 bits is cut to 8 before it is multiplied by another, or divided.
        tolerance = {"assocalpha": 3.1}.get(extra, 2.1) if bits == 16 else 1.01
        yield tiff(name, stored, expected_pixels(samples, bits, photometric, extra), tolerance, **options)
    yield from odd_tiffs()


def odd_tiffs() -> Iterator[DecoderCase]:
    """Yield rare TIFFs: bits, sample formats, palettes, predictors and compressions."""
    grey, rgb = ramps(1, 8), ramps(3, 8)
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    options: dict[str, Any]
    for order, photometric, bits in product("<>", ("minisblack", "miniswhite"), (1, 2, 4, 12)):
        samples, options = ramps(1, bits), {"byteorder": order, "photometric": photometric, "bitspersample": bits}
        stored, truth = samples.astype(bool) if bits == 1 else samples, expected_pixels(samples, bits, photometric)
        yield tiff(f"{photometric} {bits} {order}", stored, truth, **options)
    for kind in ("i1", "i2", "i4", "u4", "f2", "f4", "f8"):
        stored = (grey / 255 if kind[0] == "f" else grey).astype(kind)
        yield tiff(f"minisblack {kind}", stored, grey, photometric="minisblack")
    for order in "<>":
        options = {"byteorder": order, "photometric": "palette", "colormap": colours}
        yield tiff(f"palette 8 {order}", grey, (colours.T / 257)[grey[..., 0]], **options)
    truth = (colours.T // 256)[grey[..., 0]]
    yield tiff("palette 8 of 8-bit colours", grey, truth, photometric="palette", colormap=colours // 256)
    truth, extra = expected_pixels(ramps(4, 8), 8, "rgb", "unassalpha"), ["unassalpha", "unspecified"]
    yield tiff("rgb 8 alpha and more", ramps(5, 8), truth, photometric="rgb", extrasamples=extra)
    for bits, order in product((8, 16), "<>"):
        samples, options = ramps(3, bits), {"byteorder": order, "compression": "lzw", "predictor": 2}
        truth = expected_pixels(samples, bits, "rgb")
        yield tiff(f"rgb {bits} lzw predictor {order}", samples, truth, photometric="rgb", **options)
    yield tiff("ycbcr 8 raw", np.asarray(Image.fromarray(rgb).convert("YCbCr")), rgb, 3, photometric="ycbcr")
    yield tiff("cielab 8 raw", rgb, rgb, photometric="cielab")
    for kind in ("jpeg", "zstd", "lzma", "webp", "jpeg2000", "png"):
        level = {"level": 95} if kind == "jpeg" else None
        options = {"photometric": "rgb", "compression": kind, "compressionargs": level}
        yield tiff(f"rgb 8 {kind}", rgb, rgb, LOSSY, **options)


def tiff(
    name: str,
    stored: Samples,
    truth: Samples,
    tolerance: float = 1.01,
    byteorder: Any = "<",
    bigtiff: bool = False,
    **options: Any,
) -> DecoderCase:
    """Encode samples with tifffile."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(stored.squeeze(), metadata=None, **options)
    return DecoderCase(f"TIFF {name}", buffer.getvalue(), truth, tolerance)


def expected_pixels(samples: Samples, bits: int, photometric: str, extra: str = "") -> Samples:
    """Return the pixels that TIFF 6.0 defines for samples."""
    values = samples.astype(float) / (2**bits - 1)
    colours = {"rgb": 3, "separated": 4}.get(photometric, 1)
    pixels: Samples = values[..., :colours]
    if photometric == "separated":
        pixels = (1 - pixels[..., :3]) * (1 - pixels[..., 3:])
    elif photometric == "miniswhite":
        pixels = 1 - pixels
    if extra == "unassalpha":
        return blend_with_white(pixels, values[..., colours:])
    if extra == "assocalpha":
        pixels = pixels + 1 - values[..., colours:]
    return pixels * 255
