"""Measure which image formats and layouts tritonkit decodes correctly, against the format definitions.

Small images are created in each layout, with the pixels that the definition of the format gives them. The decoder of
tritonkit is compared with these pixels. The results of OpenCV and libvips for the same file check the definition. Needs
the extra `study`. Exits with 1 if an image is decoded wrongly.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Annotated

import cv2
import numpy as np
import PIL
import pyvips
import typer

from benchmarks.studies.decoder_files.encoded import encoded_files
from benchmarks.studies.decoder_files.rasters import bmps, pngs, pnms
from benchmarks.studies.decoder_files.samples import DecoderCase, Samples, blend_with_white
from benchmarks.studies.decoder_files.tiffs import tiffs
from benchmarks.studies.study import Result, command
from tritonkit.images.preprocess import ImageError, Preprocess, load_image


def levels_on_white(pixels: Samples) -> Samples:
    """Return pixels of OpenCV or libvips, grey or RGB and alpha, as RGB levels on white."""
    max_value = {"uint8": 255.0, "uint16": 65535.0}.get(pixels.dtype.name, 1.0)
    values = np.atleast_3d(pixels / max_value)
    colours, alpha = (values[..., :3], values[..., 3:4]) if values.shape[2] > 2 else (values[..., :1], values[..., 1:])
    return np.broadcast_to(blend_with_white(colours, alpha) if alpha.size else colours * 255, (*values.shape[:2], 3))


def decode_with_opencv(data: bytes) -> Samples | None:
    """Decode with OpenCV to upright RGB; None if it cannot."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        return None
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return levels_on_white(pixels[..., [2, 1, 0, 3]])
    colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if colours is None else levels_on_white(colours[..., ::-1])


def decode_with_libvips(data: bytes) -> Samples | None:
    """Decode with libvips to upright RGB; None if it cannot."""
    try:
        image = pyvips.Image.new_from_buffer(data, "").autorot()
        if image.interpretation == "cmyk":
            values: Samples = image.numpy() / (65535.0 if image.format == "ushort" else 255.0)
            inks: Samples = (1 - values[..., :3]) * (1 - values[..., 3:4]) * 255
            return inks
        return levels_on_white(image.numpy())
    except pyvips.Error:
        return None


def decode_with_tritonkit(data: bytes, shape: tuple[int, ...]) -> tuple[Samples | None, str]:
    """Decode with tritonkit: upright RGB, or None and the reason for the refusal."""
    try:
        return load_image(data, Preprocess(shape[0], shape[1], "squash", 1.0, "nearest"))[0].astype(float), ""
    except ImageError as error:
        return None, str(error)


def verdict(pixels: Samples | None, cell: DecoderCase) -> str:
    """Return how pixels compare with the true pixels of a cell."""
    if pixels is None:
        return "not read"
    has_size = pixels.shape == (*cell.truth.shape[:2], 3)
    return "equal" if has_size and np.abs(pixels - cell.truth).max() <= cell.tolerance else "DIFFERENT"


def measure() -> Iterator[dict[str, str]]:
    """Yield the verdicts on tritonkit, OpenCV and libvips for each cell."""
    for cell in chain(tiffs(), pngs(), pnms(), bmps(), encoded_files()):
        pixels, reason = decode_with_tritonkit(cell.data, cell.truth.shape)
        yield {
            "file": cell.name,
            "ours": f"refused: {reason}" if reason else verdict(pixels, cell),
            "opencv": verdict(decode_with_opencv(cell.data), cell),
            "libvips": verdict(decode_with_libvips(cell.data), cell),
        }


def study(
    show_all: Annotated[bool, typer.Option("--all", help="Also print the equal cells.")] = False,
) -> Result:
    """Decode each cell, and print those that are not equal."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cells = list(measure())
    for cell in cells:
        if show_all or cell["ours"] != "equal":
            print(f"{cell['file']:58} {cell['ours']} (OpenCV {cell['opencv']}, libvips {cell['libvips']})")
    counts = Counter(cell["ours"].partition(":")[0] for cell in cells)
    versions = {
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
        "libvips": ".".join(str(pyvips.version(part)) for part in range(3)),
    }
    return Result(
        {"versions": versions, "counts": counts, "cells": cells},
        {f"{counts['DIFFERENT']} cells are DIFFERENT": not counts["DIFFERENT"]},
        hidden=("cells",),
    )


if __name__ == "__main__":
    command(study)()
