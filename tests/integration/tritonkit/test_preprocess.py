"""Decoding and fitting of images, and refused files. All images are made from a photograph."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pictures import decoded, encoded, turned
from tritonkit.images.preprocess import ImageError, Preprocess, decode_image, fit_image, load_image

# How a picture that stands upright must be turned for EXIF's word to make it stand again.
STORED_AS = {
    1: lambda image: image.copy(),
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    "WEBP": {"lossless": True, "exact": True},
}


# Formats


@pytest.mark.parametrize("kind", LOSSLESS)
def test_decode_keeps_every_pixel_when_the_format_is_lossless(cat: Image.Image, kind: str) -> None:
    assert np.array_equal(decoded(encoded(cat, kind, **LOSSLESS[kind])), np.asarray(cat))


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_decode_is_close_when_the_format_is_lossy(cat: Image.Image, kind: str) -> None:
    difference = decoded(encoded(cat, kind, quality=95)).astype(int) - np.asarray(cat)
    assert np.abs(difference).mean() < 2


def test_decode_reads_cmyk_when_a_jpeg_has_four_channels(cat: Image.Image) -> None:
    difference = decoded(encoded(cat.convert("CMYK"), "JPEG", quality=95)).astype(int) - np.asarray(cat)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_decode_gives_the_same_colours_when_pixels_have_one_channel(cat: Image.Image, mode: str) -> None:
    stored = cat.convert(mode)
    assert np.array_equal(decoded(encoded(stored, "PNG")), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_decode_puts_white_behind_when_pixels_are_transparent(cat: Image.Image, mode: str) -> None:
    stored = cat.convert(mode)
    alpha = np.full((cat.height, cat.width), 255, dtype=np.uint8)
    alpha[:100], alpha[100:200] = 0, 51
    stored.putalpha(Image.fromarray(alpha))
    levels, colours = decoded(encoded(stored, "PNG")).astype(float), np.asarray(stored.convert("RGB"))
    assert (levels[:100] == 255).all()
    assert np.abs(levels[100:200] - (0.2 * colours[100:200] + 0.8 * 255)).max() <= 1
    assert np.array_equal(levels[200:], colours[200:])


def test_pixels_are_the_same_when_a_large_picture_is_converted_in_bands(cat: Image.Image) -> None:
    large = cat.resize((1301, 1707))
    large.putalpha(cat.convert("L").resize(large.size))
    white = Image.new("RGBA", large.size, "white")
    assert np.array_equal(decoded(encoded(large, "PNG")), Image.alpha_composite(white, large).convert("RGB"))
    levels = np.arange(1301 * 1707, dtype=np.uint16).reshape(1707, 1301)
    assert np.array_equal(decoded(encoded(Image.fromarray(levels), "PNG"))[..., 0], np.round(levels / 257))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_decode_puts_white_behind_when_a_palette_entry_is_transparent(cat: Image.Image, kind: str) -> None:
    stored = cat.quantize(32)
    entry = int(np.bincount(np.asarray(stored).ravel()).argmax())
    levels = decoded(encoded(stored, kind, transparency=entry))
    clear = np.asarray(stored) == entry
    assert (levels[clear] == 255).all()
    assert np.array_equal(levels[~clear], np.asarray(stored.convert("RGB"))[~clear])


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_decode_takes_the_first_frame_when_a_picture_moves(
    cat: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    first = cat.quantize(64).convert("RGB")
    frames = [Image.new("RGB", cat.size, colour) for colour in ("red", "blue")]
    moving = encoded(first, kind, save_all=True, append_images=frames, **options)
    assert Image.open(io.BytesIO(moving)).n_frames == 3  # type: ignore[attr-defined]
    assert np.array_equal(decoded(moving), np.asarray(first))


# Orientation


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_decode_stands_upright_when_exif_says_how(cat: Image.Image, kind: str, orientation: int) -> None:
    stored = encoded(STORED_AS[orientation](cat), kind, exif=turned(orientation), **LOSSLESS[kind])
    assert np.array_equal(decoded(stored), np.asarray(cat))


@pytest.mark.parametrize("orientation", STORED_AS)
def test_decode_stands_upright_when_a_jpeg_says_how(cat: Image.Image, orientation: int) -> None:
    stored = encoded(STORED_AS[orientation](cat), "JPEG", exif=turned(orientation), quality=95, subsampling=0)
    levels = decoded(stored)
    assert np.abs(levels.astype(int) - np.asarray(cat)).mean() < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00 not a directory",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x04abc\x00\x00\x00\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00\x00\x00\x00\x00",
    ],
    ids=["empty", "text", "offset-past-the-end", "orientation-is-text", "orientation-99"],
)
def test_decode_leaves_the_picture_as_stored_when_exif_is_broken(cat: Image.Image, exif: bytes) -> None:
    assert np.array_equal(decoded(encoded(cat, "JPEG", exif=exif)), decoded(encoded(cat, "JPEG")))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000"])
def test_decode_says_cut_short_when_the_end_is_missing(cat: Image.Image, kind: str, share: float) -> None:
    data = encoded(cat, kind)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * share)])
    assert caught.value.code in ("image.truncated", "image.header")


def damaged(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(3)
    if kind == 0:
        return data[: chance.randrange(1, len(data))]
    if kind == 1:
        return data[: chance.randrange(4, 40)] + chance.randbytes(chance.randrange(400))
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        # Half of the flips hit the first bytes, where the headers are.
        changed[chance.randrange(min(len(data), chance.choice((120, len(data)))))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_load_gives_an_image_or_an_image_error_when_bytes_are_damaged(cat: Image.Image, kind: str) -> None:
    chance = random.Random(kind)
    data, refused, wrong = encoded(cat.resize((90, 60)), kind), 0, []
    for number in range(60):
        try:
            levels, _ = load_image(damaged(data, chance), Preprocess(24, 32))
            if levels.dtype != np.uint8 or levels.shape != (24, 32, 3):
                wrong.append(f"{number}: {levels.dtype} {levels.shape}")
        except ImageError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - any other exception is what this looks for
            wrong.append(f"{number}: {error!r}")
    assert not wrong
    assert refused > 0


@pytest.mark.parametrize(
    ("interpolation", "resample"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_crop_equals_resize_then_centre_crop_when_sizes_divide_evenly(
    photos: Path, interpolation: Any, resample: Image.Resampling
) -> None:
    photo = Image.open(photos / "coffee_cup.jpg").convert("RGB")
    assert photo.size == (600, 400)
    expected = photo.resize((300, 200), resample).crop((70, 20, 230, 180))
    levels, _ = fit_image(photo, Preprocess(160, 160, crop_ratio=0.8, interpolation=interpolation))
    assert np.abs(levels.astype(int) - np.asarray(expected)).max() <= 2


def test_pad_keeps_everything_and_fills_the_rest_when_shapes_differ(cat: Image.Image) -> None:
    preprocess = Preprocess(height=100, width=80, fit="pad", fill=(114, 115, 116))
    levels, _ = fit_image(cat.resize((160, 100)), preprocess)
    inner = np.asarray(cat.resize((160, 100)).resize((80, 50), Image.Resampling.BILINEAR))
    assert np.array_equal(levels[25:75], inner)
    assert (levels[:25] == (114, 115, 116)).all()
    assert (levels[75:] == (114, 115, 116)).all()


def test_squash_equals_a_plain_resize_when_shapes_differ(cat: Image.Image) -> None:
    levels, _ = fit_image(cat, Preprocess(height=50, width=20, fit="squash"))
    assert np.array_equal(levels, np.asarray(cat.resize((20, 50), Image.Resampling.BILINEAR)))


def test_load_turns_before_it_fits_when_exif_says_how(cat: Image.Image) -> None:
    stored = encoded(STORED_AS[6](cat), "PNG", exif=turned())
    levels, geometry = load_image(stored, Preprocess(24, 40))
    assert np.array_equal(levels, fit_image(cat, Preprocess(24, 40))[0])
    assert geometry.source_size == cat.size
