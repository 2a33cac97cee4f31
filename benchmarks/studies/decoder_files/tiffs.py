"""TIFF images."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.studies.decoder_files.samples import LOSSY, DecoderCase, Samples, encode_image, expected_pixels, ramps


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
        options["extrasamples"] = [extra] if extra else None
        if samples.shape[2] > 1:
            options["planarconfig"] = planar
        stored = np.moveaxis(samples, 2, 0) if planar == "separate" else samples.squeeze()
        name = f"TIFF {photometric} {bits} {extra or '-'} {planar} {order} {compression or 'raw'}"
        name += f" {'tiles' if tile else 'strips'}{' big' if big else ''}"
        # A channel of 16 bits is cut to 8 before it is multiplied by another, or divided.
        tolerance = {"assocalpha": 3.1}.get(extra, 2.1) if bits == 16 else 1.01
        yield DecoderCase(
            name, tiff(stored, order, big, **options), expected_pixels(samples, bits, photometric, extra), tolerance
        )
    yield from odd_tiffs()


def tiff(stored: Samples, order: Any = "<", big: bool = False, **options: Any) -> bytes:
    """Encode samples with tifffile."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=big) as writer:
        writer.write(stored, metadata=None, **options)
    return buffer.getvalue()


def odd_tiffs() -> Iterator[DecoderCase]:
    """Yield rare TIFFs: bits, sample formats, palettes, predictors and JPEG compression."""
    for order, photometric, bits in product("<>", ("minisblack", "miniswhite"), (1, 2, 4, 12)):
        samples = ramps(1, bits)
        stored = samples.squeeze().astype(bool) if bits == 1 else samples.squeeze()
        data = tiff(stored, order, photometric=photometric, bitspersample=bits)
        yield DecoderCase(f"TIFF {photometric} {bits} {order}", data, expected_pixels(samples, bits, photometric, ""))
    grey = ramps(1, 8).squeeze()
    for kind in ("i1", "i2", "i4", "u4", "f2", "f4", "f8"):
        stored = (grey / 255 if kind[0] == "f" else grey).astype(kind)
        yield DecoderCase(f"TIFF minisblack {kind}", tiff(stored, photometric="minisblack"), np.dstack([grey] * 3))
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    for order in "<>":
        truth = (colours.T / 257)[grey]
        yield DecoderCase(f"TIFF palette 8 {order}", tiff(grey, order, photometric="palette", colormap=colours), truth)
    alpha_options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}
    yield DecoderCase(
        "TIFF rgb 8 alpha and more",
        tiff(ramps(5, 8), **alpha_options),
        expected_pixels(ramps(5, 8)[..., :4], 8, "rgb", "unassalpha"),
    )
    small = tiff(grey, photometric="palette", colormap=colours // 256)
    yield DecoderCase("TIFF palette 8 of 8-bit colours", small, (colours.T // 256)[grey])
    for bits, order in product((8, 16), "<>"):
        rgb = ramps(3, bits)
        data = tiff(rgb, order, photometric="rgb", compression="lzw", predictor=2)
        yield DecoderCase(f"TIFF rgb {bits} lzw predictor {order}", data, expected_pixels(rgb, bits, "rgb", ""))
    rgb = ramps(3, 8)
    data = tiff(rgb, photometric="rgb", compression="jpeg", compressionargs={"level": 95})
    yield DecoderCase("TIFF rgb 8 jpeg", data, rgb, LOSSY)
    converted = Image.fromarray(rgb).convert("YCbCr")
    yield DecoderCase("TIFF ycbcr 8 jpeg", encode_image(converted, "TIFF", compression="jpeg", quality=95), rgb, LOSSY)
    ycbcr = np.asarray(converted)
    yield DecoderCase("TIFF ycbcr 8 raw", tiff(ycbcr, photometric="ycbcr"), rgb, 3)
    yield DecoderCase("TIFF cielab 8 raw", tiff(rgb, photometric="cielab"), rgb)
    for kind in ("zstd", "lzma", "webp", "jpeg2000", "png"):
        yield DecoderCase(f"TIFF rgb 8 {kind}", tiff(rgb, photometric="rgb", compression=kind), rgb, LOSSY)
    for kind in ("group3", "group4", "tiff_ccitt"):
        bilevel = Image.fromarray(grey > 127)
        yield DecoderCase(
            f"TIFF 1 {kind}", encode_image(bilevel, "TIFF", compression=kind), np.asarray(bilevel.convert("RGB"))
        )
