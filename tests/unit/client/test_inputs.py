"""A Pillow image has the same pixels as its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.inputs import picture_from_input
from tritonkit.images.preprocess import ImageError

GREY = (np.arange(48).reshape(6, 8) * 1361).astype(np.uint16)
GREEN = Image.new("RGBA", (8, 6), (0, 200, 0, 90))


def save_image(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def image_of_mode_i(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.astype(np.int32))


def turned(image: Image.Image) -> Image.Exif:
    exif = image.getexif()
    exif[274] = 6
    return exif


IMAGES = {
    "I;16.png": (Image.fromarray(GREY), {}),
    "I;16.tif": (Image.fromarray(GREY), {}),
    "I;16B.tif": (Image.fromarray(GREY.astype(">u2")), {}),
    "I.pgm": (Image.fromarray(GREY), {}),
    "LA.png": (GREEN.convert("LA"), {}),
    "P.png": (GREEN.quantize(8), {}),
    "RGBA.webp": (GREEN, {"lossless": True}),
    "CMYK.tif": (GREEN.convert("CMYK"), {}),
    "turned.tif": (GREEN.convert("RGB"), {"exif": turned(GREEN)}),
    "turned.png": (GREEN.convert("RGB"), {"exif": turned(GREEN)}),
}


def pixels(source: object) -> np.ndarray:
    return np.asarray(picture_from_input(source, 0).decode())


@pytest.mark.parametrize("name", IMAGES)
def test_opened_picture_has_the_pixels_of_its_file(tmp_path: Path, name: str) -> None:
    image, options = IMAGES[name]
    path = save_image(tmp_path, name, image, **options)
    assert (pixels(Image.open(path)) == pixels(path)).all()


@pytest.mark.parametrize("mode", ["I;16L", "I;16N"])
def test_grey_is_scaled_when_a_picture_has_16_bits_in_another_order(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (8, 6))
    for y, x in np.ndindex(GREY.shape):
        image.putpixel((x, y), int(GREY[y, x]))
    assert (pixels(image) == pixels(Image.fromarray(GREY))).all()


def test_transparency_becomes_white_when_a_palette_has_its_own() -> None:
    clear = Image.new("PA", (8, 6))
    assert clear.has_transparency_data
    assert (pixels(clear) == 255).all()


@pytest.mark.parametrize("image", [image_of_mode_i(GREY.astype(int) + 65536), image_of_mode_i(GREY.astype(int) - 9)])
def test_picture_is_refused_when_its_levels_have_more_than_16_bits(image: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"0\.\.65535"):
        pixels(image)


def test_picture_is_refused_when_its_pixels_are_floating_point() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        pixels(Image.new("F", (4, 4)))
