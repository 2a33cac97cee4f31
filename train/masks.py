"""Masks as files: grey levels, palette indices or colours, and the classes they stand for."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.preprocess import MAX_PIXELS, ImageArray, ImageError, read_picture
from model.tasks.segmentation import IGNORED
from train.mask_values import IGNORE, Meaning, in_words

FORMATS = ("PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP", "PPM")
_LOSSY = ("JPEG", "WEBP")
"""Formats that blur black and white."""
_BLUR = 32
_MOST_BLURRED = 0.1
"""Of the pixels of such a black and white mask, the share that may be neither within _BLUR of 0 nor of 255."""
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


class MaskValueError(ImageError):
    """A mask with values that stand for no class."""

    def __init__(self, message: str, values: set[int], colour: bool) -> None:
        super().__init__(message)
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
        """Each value once."""
        return set(np.unique(self.values).tolist())


BLACK_AND_WHITE = Meaning({"0": (0,), "1": (255,)})
"""Two classes as 0 and 255."""


def class_meaning(count: int) -> Meaning:
    """Class numbers from 0, where 255 is not judged."""
    return Meaning({**{str(number): (number,) for number in range(count)}, IGNORE: (IGNORED,)})


def two_class_meaning(paths: Iterable[Path]) -> tuple[Meaning, str | None]:
    """What masks of two classes hold in common: 0 and 1, with 255 for what is not judged, or 0 and 255; and a problem.

    One file cannot tell: 255 means the same in all of them.
    """
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_distinct, paths))
    ones = [values for values in found if 1 in values and values <= {0, 1, IGNORED}]
    if not ones:
        return BLACK_AND_WHITE, None
    without = any(IGNORED in values and 1 not in values for values in found)
    if without and not any(IGNORED in values for values in ones):
        return class_meaning(2), (
            "some masks hold 0 and 1, others 0 and 255; say what 255 is: data.mask_values: {background: 0, "
            "foreground: [1, 255]}, or {background: 0, foreground: 1, ignore: 255}"
        )
    return class_meaning(2), None


def class_numbers(path: Path, meaning: Meaning, labels: tuple[str, ...] = ()) -> ImageArray:
    """The classes of a mask by their places in `labels`, or in the meaning's; uint8 [H, W], 255 is not judged.

    Raises ImageError.
    """
    pixels = read_pixels(path, meaning)
    labels = labels or meaning.labels
    if pixels.lossy and meaning is BLACK_AND_WHITE and not pixels.colour:
        return _cut_at_half(pixels)
    if pixels.lossy and not meaning.has_ranges_alone:
        raise ImageError(
            "JPEG and WebP blur the values of a mask; save it as PNG, or give ranges in data.mask_values, such as "
            "{background: 0-127, foreground: 128-255}"
        )
    numbers = {name: number for number, name in enumerate(labels)} | {IGNORE: IGNORED}
    values, places = np.unique(pixels.values, return_inverse=True)
    names = [meaning.name(value, pixels.colour) for value in values.tolist()]
    strangers = {value for value, name in zip(values.tolist(), names, strict=True) if name is None}
    if strangers:
        raise _unknown(pixels, strangers, len(labels), meaning)
    table = np.array([numbers[name] for name in names if name is not None], dtype=np.uint8)
    return table[places].reshape(pixels.values.shape)


def mask_content(path: Path) -> bytes:
    """The bytes of the file; none where it cannot be read."""
    try:
        return read_picture(path)
    except ImageError:
        return b""


def read_pixels(path: Path, meaning: Meaning = BLACK_AND_WHITE) -> MaskPixels:
    """Decode a mask; of a palette the indices, or the colours where the meaning has any. Raises ImageError."""
    data = read_picture(path)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise ImageError(f"not a readable mask; {', '.join(FORMATS)} can be read") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    try:
        frames = getattr(image, "n_frames", 1)
        image.load()
    except Exception as error:  # a file cut short fails in the decoder
        raise ImageError(f"the mask is broken or cut short ({error})") from error
    if frames > 1:
        raise ImageError(f"holds {frames} pictures, expected one; save the mask alone")
    lossy = image.format in _LOSSY and data[12:16] != b"VP8L"  # WebP without loss
    if image.mode == "P" and not meaning.has_colours:
        if not meaning.configured:
            _check_palette(image)
        return MaskPixels(np.asarray(image).astype(np.int64), colour=False, lossy=lossy)
    if image.mode in _GREY_MODES:
        return MaskPixels(_whole_numbers(image), colour=False, lossy=lossy)
    channels = _opaque(image)
    if not meaning.has_colours and (channels == channels[..., :1]).all():
        return MaskPixels(channels[..., 0], colour=False, lossy=lossy)
    return MaskPixels(channels @ np.array([1 << 16, 1 << 8, 1]), colour=True, lossy=lossy)


def _distinct(path: Path) -> set[int]:
    try:
        pixels = read_pixels(path)
    except ImageError:
        return set()
    return set() if pixels.colour or pixels.lossy else pixels.distinct


def _check_palette(image: Image.Image) -> None:
    """Refuse indices that are not class numbers: index 0, the background, would be the object."""
    colours, indices = np.asarray(image.convert("RGB")), np.asarray(image)
    if not (indices == 0).any():
        return
    first = tuple(int(level) for level in colours[indices == 0][0])
    black_elsewhere = not colours[indices > 0].any(axis=1).all()
    if first == (255, 255, 255) or (black_elsewhere and first != (0, 0, 0)):
        raise ImageError(
            f"its palette has {list(first)} at index 0, so that indices are no class numbers; give the colours, for "
            "example data.mask_values: {background: [0, 0, 0], foreground: [255, 0, 0]}"
        )


def _whole_numbers(image: Image.Image) -> NDArray[np.int64]:
    values = np.asarray(image)
    whole = values.astype(np.int64)
    if image.mode == "F" and not np.array_equal(whole, values):
        raise ImageError("holds fractions, expected class numbers; save it as whole numbers")
    return whole


def _opaque(image: Image.Image) -> NDArray[np.int64]:
    """Red, green and blue, int64 [H, W, 3]."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        if (rgba[..., 3] != 255).any():
            raise ImageError("is transparent in parts; save it without transparency, so that each pixel has a value")
    return np.asarray(image.convert("RGB")).astype(np.int64)


def _cut_at_half(pixels: MaskPixels) -> ImageArray:
    blurred = (pixels.values > _BLUR) & (pixels.values < 255 - _BLUR)
    if blurred.mean() > _MOST_BLURRED:
        raise MaskValueError(
            f"is neither black nor white in {blurred.mean():.0%} of its pixels, expected 0 and 255",
            pixels.distinct,
            colour=False,
        )
    return (pixels.values >= 128).astype(np.uint8)


def _unknown(pixels: MaskPixels, strangers: set[int], count: int, meaning: Meaning) -> MaskValueError:
    held = pixels.distinct if pixels.colour or meaning is BLACK_AND_WHITE else strangers
    kind = "the colours " if pixels.colour else ""
    if meaning is BLACK_AND_WHITE or (count == 2 and meaning == class_meaning(2)):
        expected = f"expected 0 and 1 (and {IGNORED} for what is not judged), or 0 and 255"
    elif meaning == class_meaning(count):
        expected = f"expected class numbers below {count} (or {IGNORED})"
    else:
        held, expected = strangers, "which data.mask_values does not name"
    return MaskValueError(f"holds {kind}{in_words(held, pixels.colour)}, {expected}", pixels.distinct, pixels.colour)
