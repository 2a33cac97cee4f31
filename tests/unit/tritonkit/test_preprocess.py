"""Decoding and fitting of images, and refused files. All images are made from a photograph."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tritonkit.evaluation.samples.masks import fit_mask
from tritonkit.images import preprocess
from tritonkit.images.preprocess import (
    Geometry,
    ImageArray,
    ImageError,
    Preprocess,
    decode_image,
    fit_image,
)

FITS = ("crop", "pad", "squash")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> ImageArray:
    return np.asarray(decode_image(data))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG by hand: signature, header, the given chunks, end (ISO/IEC 15948)."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


def grey_ramp() -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.array([[0, 1, 128, 129], [256, 257, 32768, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_decode_scales_grey_levels_when_they_have_16_bits(kind: str) -> None:
    levels = decoded(encoded(Image.fromarray(grey_ramp()), kind))
    assert np.array_equal(levels[..., 0], np.round(grey_ramp() / 257).astype(np.uint8))
    assert (levels == levels[..., :1]).all()


def test_decode_scales_colours_when_they_have_16_bits() -> None:
    colours = np.array([[[0, 0x8000, 0xFFFF], [0x1234, 0xABCD, 0x00FF]]], dtype=">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in colours)
    levels = decoded(png(2, 1, 16, 2, png_chunk(b"IDAT", zlib.compress(rows))))
    assert np.abs(levels.astype(float) - colours / 257).max() <= 1


# What is refused


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image.empty"),
        (b"Dear reader, this is no picture.\n" * 40, "image.unknown_format"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "image.unknown_format"),
        (b"\x7fELF\x02\x01\x01" + bytes(200), "image.unknown_format"),
        (b"MZ\x90\x00\x03" + bytes(200), "image.unknown_format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', "image.unsupported_format"),
        (b"\xff\xd8\xff", "image.header"),
        (b"\x89PNG\r\n\x1a\n", "image.header"),
    ],
    ids=["empty", "text", "html", "elf", "exe", "svg", "jpeg-magic", "png-magic"],
)
def test_decode_gives_the_reason_when_the_bytes_are_no_picture(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.code == code


# No pixels follow these headers: only a refusal that comes before decoding can speak of their number.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (11000, 10000), (70000, 1), (1, 70000)])
def test_decode_refuses_by_the_header_when_it_claims_too_many_pixels(width: int, height: int) -> None:
    bomb = png(width, height, 8, 2, png_chunk(b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(ImageError, match="100,000,000") as caught:
        decode_image(bomb)
    assert caught.value.code == "image.pixels"


def test_decode_refuses_when_the_file_is_too_large() -> None:
    with pytest.raises(ImageError, match=r"268,435,457 .* 268,435,456") as caught:
        decode_image(bytes(preprocess.MAX_BYTES + 1))
    assert caught.value.code == "image.file_size"


# Fitting


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (2, 65535), (31, 33)])
def test_fit_gives_the_asked_size_when_the_picture_is_extreme(
    size: tuple[int, int], interpolation: Any, fit: Any
) -> None:
    preprocess = Preprocess(height=24, width=40, fit=fit, interpolation=interpolation)
    levels, geometry = fit_image(Image.new("RGB", size, (10, 20, 30)), preprocess)
    assert levels.shape == (24, 40, 3)
    assert geometry.source_size == size
    left, top, right, bottom = map(int, geometry.target_box)
    assert (levels[top:bottom, left:right] == (10, 20, 30)).all()


@pytest.mark.parametrize("crop_ratio", [1e-6, 1.0])
def test_fit_crops_when_the_box_is_smaller_than_a_pixel(crop_ratio: float) -> None:
    levels, _ = fit_image(Image.new("RGB", (1, 65535), "white"), Preprocess(1, 8192, crop_ratio=crop_ratio))
    assert (levels == 255).all()


# Of these sizes the centre's box reaches past the picture by a rounding error, which Pillow refuses.
@pytest.mark.parametrize(("size", "height", "width"), [((1829, 2161), 499, 575), ((2508, 401), 196, 122)])
def test_crop_stays_inside_when_floats_are_rounded(size: tuple[int, int], height: int, width: int) -> None:
    _, geometry = fit_image(Image.new("RGB", size), Preprocess(height, width))
    left, top, right, bottom = geometry.source_box
    assert min(left, top) >= 0
    assert right <= size[0]
    assert bottom <= size[1]


# Geometry


@pytest.mark.parametrize(
    ("preprocess", "corners"),
    [
        (Preprocess(200, 100), {(0, 0): (200, 0), (100, 200): (400, 400), (100, 0): (400, 0)}),
        (Preprocess(200, 100, crop_ratio=0.5), {(0, 0): (250, 100), (100, 200): (350, 300)}),
        (Preprocess(200, 120, fit="pad"), {(0, 60): (0, 0), (120, 140): (600, 400), (0, 0): (0, -300)}),
        (Preprocess(100, 200, fit="pad"), {(25, 0): (0, 0), (175, 100): (600, 400)}),
        (Preprocess(200, 100, fit="squash"), {(0, 0): (0, 0), (100, 200): (600, 400), (50, 50): (300, 100)}),
    ],
    ids=["crop", "crop-half", "pad-tall", "pad-wide", "squash"],
)
def test_to_source_maps_the_corners_when_the_picture_is_600_by_400(
    preprocess: Preprocess, corners: dict[tuple[float, float], tuple[float, float]]
) -> None:
    _, geometry = fit_image(Image.new("RGB", (600, 400)), preprocess)
    assert {point: pytest.approx(geometry.to_source(*point)) for point in corners} == corners


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("place", [(250, 130), (340, 290)])
def test_to_source_finds_the_spot_when_a_picture_has_one(fit: Any, place: tuple[int, int]) -> None:
    picture = Image.new("RGB", (600, 400))
    picture.paste("white", (place[0] - 8, place[1] - 8, place[0] + 8, place[1] + 8))
    levels, geometry = fit_image(picture, Preprocess(height=150, width=100, fit=fit))
    rows, columns = np.nonzero(levels[..., 0] > 60)
    found = geometry.to_source(columns.mean() + 0.5, rows.mean() + 0.5)
    assert found == pytest.approx(place, abs=3)


# Masks

MASK_FITS = [
    Preprocess(height=64, width=96),
    Preprocess(height=64, width=96, crop_ratio=0.5),
    Preprocess(height=64, width=64, fit="pad"),
    Preprocess(height=400, width=200, fit="pad"),
    Preprocess(height=50, width=70, fit="squash"),
    Preprocess(height=500, width=700, fit="squash"),
]


def two_halves(geometry: Geometry) -> ImageArray:
    """A mask whose left half is 1 and right half 2, with a band of 3 on top, at the picture's size."""
    width, height = geometry.source_size
    mask = np.where(np.arange(width) < width // 2, 1, 2) * np.ones((height, 1))
    mask[: height // 4] = 3
    return mask.astype(np.uint8)


@pytest.mark.parametrize(
    "preprocess", MASK_FITS, ids=lambda how: f"{how.fit}-{how.height}x{how.width}-{how.crop_ratio}"
)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (37, 41)])
def test_mask_comes_back_where_it_was_when_it_goes_to_the_input_and_back(
    preprocess: Preprocess, size: tuple[int, int]
) -> None:
    _, geometry = fit_image(Image.new("RGB", size), preprocess)
    mask = two_halves(geometry)
    fitted = fit_mask(mask, preprocess, fill=255)
    assert (fitted.shape, fitted.dtype) == ((preprocess.height, preprocess.width), np.uint8)
    back = geometry.mask_to_source(fitted)
    assert (back.shape, back.dtype) == (mask.shape, np.uint8)
    left, top, right, bottom = geometry.source_box
    rows, columns = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    visible = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))
    assert (back[~visible] == 0).all()
    assert 255 not in back
    # Only pixels within one of the input's of a border may change sides.
    scale = max((right - left) / preprocess.width, (bottom - top) / preprocess.height, 1.0)
    is_edge = (np.abs(columns - size[0] // 2) <= scale) | (np.abs(rows - size[1] // 4) <= scale)[:, None]
    assert np.array_equal(back[visible & ~is_edge], mask[visible & ~is_edge])
    assert (visible & ~is_edge).sum() > 0.1 * mask.size


@pytest.mark.parametrize("fit", FITS)
def test_mask_lies_where_the_picture_does_when_both_are_fitted(fit: Any) -> None:
    """What is white in the picture is 1 in the mask; no value but those may appear in it."""
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[60:140, 90:210] = 255
    preprocess = Preprocess(height=80, width=60, fit=fit, interpolation="nearest")
    levels, _ = fit_image(Image.fromarray(picture), preprocess)
    fitted = fit_mask((picture[..., 0] > 0).astype(np.uint8), preprocess, fill=0)
    assert np.array_equal(fitted, (levels[..., 0] > 0).astype(np.uint8))
    assert 0 < fitted.sum() < fitted.size


def test_mask_has_the_fill_where_the_input_has_a_border() -> None:
    fitted = fit_mask(np.ones((20, 40), np.uint8), Preprocess(height=40, width=40, fit="pad"), fill=255)
    assert (fitted[:10] == 255).all()
    assert (fitted[10:30] == 1).all()
    assert (fitted[30:] == 255).all()


def test_mask_to_source_leaves_out_the_border_when_the_input_is_padded() -> None:
    _, geometry = fit_image(Image.new("RGB", (40, 20)), Preprocess(height=40, width=40, fit="pad"))
    answer = np.full((40, 40), 7, np.uint8)
    answer[10:30] = 1
    assert (geometry.mask_to_source(answer) == 1).all()


def test_mask_to_source_is_background_where_the_crop_did_not_see() -> None:
    _, geometry = fit_image(Image.new("RGB", (60, 40)), Preprocess(height=20, width=20))
    back = geometry.mask_to_source(np.full((20, 20), 5, np.uint8))
    assert (back[:, 10:50] == 5).all()
    assert (back[:, :10] == 0).all()
    assert (back[:, 50:] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 3000), (3000, 3), (2, 2)])
@pytest.mark.parametrize("fit", FITS)
def test_mask_has_the_pictures_size_when_that_is_extreme(fit: Any, size: tuple[int, int]) -> None:
    preprocess = Preprocess(height=24, width=40, fit=fit)
    _, geometry = fit_image(Image.new("RGB", size), preprocess)
    assert fit_mask(np.ones(size[::-1], np.uint8), preprocess, fill=0).any()
    back = geometry.mask_to_source(np.ones((24, 40), np.uint8))
    assert back.shape == size[::-1]
    assert back.any()


# The settings


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "height-0": ({"height": 0}, "height and width"),
    "width-negative": ({"width": -3}, "height and width"),
    "width-too-large": ({"width": preprocess.MAX_SIDE + 1}, "height and width"),
    "ratio-0": ({"crop_ratio": 0.0}, "crop_ratio"),
    "ratio-above-1": ({"crop_ratio": 1.01}, "crop_ratio"),
    "ratio-nan": ({"crop_ratio": float("nan")}, "crop_ratio"),
    "fill": ({"fill": (0, 256, 0)}, "fill: "),
    "fit": ({"fit": "zoom"}, "crop.*pad.*squash"),
    "interpolation": ({"interpolation": "cubic"}, "bilinear.*bicubic"),
}


@pytest.mark.parametrize("build", [Preprocess, lambda **k: TypeAdapter(Preprocess).validate_python(k)])
@pytest.mark.parametrize(("bad", "why"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_preprocess_says_what_is_allowed_when_a_value_is_bad(
    build: Callable[..., Preprocess], bad: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        build(**{"height": 8, "width": 8, **bad})


@pytest.mark.parametrize("bad", [{"zoom": 2}, {"fill": (1, 2)}, {"height": 8.5}, {"height": "tall"}])
def test_preprocess_is_refused_when_json_has_other_fields_or_types(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        TypeAdapter(Preprocess).validate_python({"height": 8, "width": 8, **bad})
