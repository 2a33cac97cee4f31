"""Mask files: grey levels, palette indices or colours, and their classes."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.mask_values import IGNORE, MaskMapping, format_values
from tritonkit.images.preprocess import MAX_PIXELS, ImageArray, ImageError, Preprocess, layout, read_picture
from tritonkit.tasks.segmentation import IGNORED

FORMATS = ("PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP", "PPM")
_LOSSY = ("JPEG", "WEBP")
"""Formats that blur black and white."""
_BLUR = 32
_MAX_BLURRED = 0.1
"""Largest fraction of a lossy mask's pixels that may differ by more than _BLUR from both 0 and 255."""
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


class MaskError(ImageError):
    """A mask file cannot be used; `code` names the fault."""

    def __init__(self, message: str, values: Collection[int] = (), colour: bool = False, *, code: str) -> None:
        """values: those of the mask, if some belong to no class. colour: whether they are colours."""
        super().__init__(message, code=code)
        self.values, self.colour = values, colour


@dataclass(frozen=True)
class MaskPixels:
    """The pixels of a mask file."""

    values: NDArray[np.int64]
    """[H, W]: grey levels or palette indices, or colours as 0xRRGGBB."""
    colour: bool
    lossy: bool

    @property
    def distinct(self) -> set[int]:
        """The set of values."""
        return set(np.unique(self.values).tolist())


BLACK_AND_WHITE = MaskMapping({"0": (0,), "1": (255,)})
"""Two classes as 0 and 255."""


def class_number_mapping(count: int) -> MaskMapping:
    """Return the mapping of class numbers from 0; pixels of 255 are ignored."""
    return MaskMapping({**{str(number): (number,) for number in range(count)}, IGNORE: (IGNORED,)})


def two_class_mapping(paths: Iterable[Path]) -> tuple[MaskMapping, Problem | None]:
    """Find out how the masks of a data set encode two classes: as 0 and 1 (255 is ignored), or as 0 and 255.

    One file alone is ambiguous; 255 must mean the same in all of them. Also returns the problem if it does not.
    """
    with ThreadPoolExecutor() as pool:
        value_sets = list(pool.map(_distinct, paths))
    sets_with_one = [values for values in value_sets if 1 in values and values <= {0, 1, IGNORED}]
    if not sets_with_one:
        return BLACK_AND_WHITE, None
    has_masks_without_one = any(IGNORED in values and 1 not in values for values in value_sets)
    if has_masks_without_one and not any(IGNORED in values for values in sets_with_one):
        return class_number_mapping(2), Problem(
            "data.mask_values_ambiguous",
            "some masks contain 0 and 1, others 0 and 255; define 255: data.mask_values: {background: 0, "
            "foreground: [1, 255]}, or {background: 0, foreground: 1, ignore: 255}",
        )
    return class_number_mapping(2), None


def class_numbers(path: Path, mapping: MaskMapping, labels: tuple[str, ...] = ()) -> ImageArray:
    """Read a mask as class numbers, uint8 [H, W]: indices into `labels` or the mapping's labels; 255 is ignored.

    Raises ImageError.
    """
    pixels = read_pixels(path, mapping)
    labels = labels or mapping.labels
    if pixels.lossy and mapping is BLACK_AND_WHITE and not pixels.colour:
        return _threshold(pixels)
    if pixels.lossy and not mapping.has_only_ranges:
        raise MaskError(
            "JPEG and WebP change the values of a mask; save it as PNG, or set ranges in data.mask_values, such as "
            "{background: 0-127, foreground: 128-255}",
            code="data.mask_lossy",
        )
    numbers = {name: number for number, name in enumerate(labels)} | {IGNORE: IGNORED}
    values, indices = np.unique(pixels.values, return_inverse=True)
    names = [mapping.class_of(value, pixels.colour) for value in values.tolist()]
    unknown = {value for value, name in zip(values.tolist(), names, strict=True) if name is None}
    if unknown:
        raise _unknown_values_error(pixels, unknown, len(labels), mapping)
    table = np.array([numbers[name] for name in names if name is not None], dtype=np.uint8)
    return table[indices].reshape(pixels.values.shape)


def fit_mask(mask: ImageArray, preprocess: Preprocess, fill: int) -> ImageArray:
    """Crop, pad or squash class numbers uint8 [H, W] to uint8 [height, width], as `fit_image` does with an image.

    Values are never interpolated; borders get the value `fill`.
    """
    source_height, source_width = mask.shape
    box, (left, top, width, height) = layout(source_width, source_height, preprocess)
    resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST, box=box)
    canvas = np.full((preprocess.height, preprocess.width), fill, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(resized)
    return canvas


def mask_content(path: Path) -> bytes:
    """Read the bytes of a mask file; empty if it cannot be read."""
    try:
        return read_picture(path)
    except ImageError:
        return b""


def read_pixels(path: Path, mapping: MaskMapping = BLACK_AND_WHITE) -> MaskPixels:
    """Decode a mask: palette indices, or colours if the mapping has colours. Raises ImageError."""
    data = read_picture(path)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise MaskError(
            f"not a readable mask; expected one of {', '.join(FORMATS)}", code="data.mask_unreadable"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise MaskError(
            f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS:,}", code="data.mask_too_large"
        )
    try:
        frames = getattr(image, "n_frames", 1)
        image.load()
    except Exception as error:  # a truncated file fails in the decoder
        raise MaskError(f"the mask is broken or truncated ({error})", code="data.mask_unreadable") from error
    if frames > 1:
        raise MaskError(f"contains {frames} images, expected one; save only the mask", code="data.mask_frames")
    lossy = image.format in _LOSSY and data[12:16] != b"VP8L"  # lossless WebP
    if image.mode == "P" and not mapping.has_colours:
        if not mapping.configured:
            _check_palette(image)
        return MaskPixels(np.asarray(image).astype(np.int64), colour=False, lossy=lossy)
    if image.mode in _GREY_MODES:
        levels = np.asarray(image)
        values = levels.astype(np.int64)
        if image.mode == "F" and not np.array_equal(values, levels):
            raise MaskError(
                "contains fractions, expected class numbers; save it as integers", code="data.mask_fractions"
            )
        return MaskPixels(values, colour=False, lossy=lossy)
    channels = _opaque(image)
    if not mapping.has_colours and (channels == channels[..., :1]).all():
        return MaskPixels(channels[..., 0], colour=False, lossy=lossy)
    return MaskPixels(channels @ np.array([1 << 16, 1 << 8, 1]), colour=True, lossy=lossy)


def _distinct(path: Path) -> set[int]:
    try:
        pixels = read_pixels(path)
    except ImageError:
        return set()
    return set() if pixels.colour or pixels.lossy else pixels.distinct


def _check_palette(image: Image.Image) -> None:
    """Reject palettes whose indices are not class numbers: index 0 would not be the background."""
    colours, indices = np.asarray(image.convert("RGB")), np.asarray(image)
    if not (indices == 0).any():
        return
    first = tuple(int(level) for level in colours[indices == 0][0])
    black_elsewhere = not colours[indices > 0].any(axis=1).all()
    if first == (255, 255, 255) or (black_elsewhere and first != (0, 0, 0)):
        raise MaskError(
            f"its palette has {list(first)} at index 0, so its indices are not class numbers; set the colours, for "
            "example data.mask_values: {background: [0, 0, 0], foreground: [255, 0, 0]}",
            code="data.mask_palette",
        )


def _opaque(image: Image.Image) -> NDArray[np.int64]:
    """Convert to red, green and blue, int64 [H, W, 3]."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        if (rgba[..., 3] != 255).any():
            raise MaskError(
                "is partly transparent; save it without transparency, so that each pixel has a value",
                code="data.mask_transparent",
            )
    return np.asarray(image.convert("RGB")).astype(np.int64)


def _threshold(pixels: MaskPixels) -> ImageArray:
    blurred = (pixels.values > _BLUR) & (pixels.values < 255 - _BLUR)
    if blurred.mean() > _MAX_BLURRED:
        raise MaskError(
            f"{blurred.mean():.0%} of its pixels are neither black nor white, expected 0 and 255",
            pixels.distinct,
            colour=False,
            code="data.mask_blurred",
        )
    return (pixels.values >= 128).astype(np.uint8)


def _unknown_values_error(pixels: MaskPixels, unknown: set[int], count: int, mapping: MaskMapping) -> MaskError:
    values = pixels.distinct if pixels.colour or mapping is BLACK_AND_WHITE else unknown
    kind = "the colours " if pixels.colour else ""
    if mapping is BLACK_AND_WHITE or (count == 2 and mapping == class_number_mapping(2)):
        expected = f"expected 0 and 1 (and {IGNORED} for ignored pixels), or 0 and 255"
    elif mapping == class_number_mapping(count):
        expected = f"expected class numbers below {count} (or {IGNORED})"
    else:
        values, expected = unknown, "which data.mask_values does not list"
    return MaskError(
        f"contains {kind}{format_values(values, pixels.colour)}, {expected}",
        pixels.distinct,
        pixels.colour,
        code="data.mask_values",
    )
