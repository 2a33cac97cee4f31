"""Image formats that decoders misread: decoded correctly, or refused by name. The files are generated here."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.pictures import decoded, encoded, turned
from tests.programs import run_python
from tritonkit.images import picture_formats
from tritonkit.images.preprocess import FORMATS, SUFFIXES, ImageError, decode_image

Samples = NDArray[Any]
HEIGHT, WIDTH = 16, 24
RAMP: Samples = np.tile(np.rint(np.linspace(0, 255, WIDTH)), (HEIGHT, 1)).astype(int)
NOISE: Samples = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4))
COLOURS = NOISE[..., :3]
ROWS = [row.astype(np.uint8).tobytes() for row in COLOURS]
SHORT, LONG = "H", "I"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def refusal(data: bytes, code: str = "image.unsupported_format") -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.code == code
    return str(caught.value)


def max_difference(data: bytes, truth: Samples) -> float:
    levels = decoded(data)
    assert levels.shape == truth.shape
    return float(np.abs(levels - truth).max())


def picture() -> Image.Image:
    return Image.fromarray(COLOURS.astype(np.uint8))


# TIFF (TIFF 6.0)


def tiff(samples: Samples, bits: int, photometric: int, order: str = "<", **other: Any) -> bytes:
    """Samples [height, width, channels] in one strip, or one for each plane. other: tags by `t` and their number."""
    planar, channels = other.pop("planar", 1), samples.shape[2]
    planes = np.moveaxis(samples, 2, 0) if planar == 2 else samples[None]
    strips = [plane.astype(f"{order}{other.pop('kind', 'u')}{bits // 8}").tobytes() for plane in planes]
    if other.pop("deflate", False):
        strips = [zlib.compress(strip) for strip in strips]
        other["t259"] = (SHORT, [8])
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    short = {258: [bits] * channels, 259: [1], 262: [photometric], 277: [channels], 284: [planar]}
    long = {256: [WIDTH], 257: [HEIGHT], 273: starts, 278: [HEIGHT], 279: [len(strip) for strip in strips]}
    tags = {tag: (SHORT, values) for tag, values in short.items()}
    tags |= {tag: (LONG, values) for tag, values in long.items()}
    tags |= {int(name[1:]): value for name, value in other.items()}
    return container({tag: value for tag, value in tags.items() if value[1]}, b"".join(strips), order)


def container(tags: dict[int, tuple[str, list[int]]], body: bytes, order: str) -> bytes:
    """Create a TIFF: header, strips from byte 8 on, one directory, and values that are too long for an entry."""
    body += b"\0" * (len(body) % 2)
    far, directory, more = 8 + len(body) + 2 + 12 * len(tags) + 4, struct.pack(order + "H", len(tags)), b""
    for tag, (form, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{form}", *values)
        directory += struct.pack(order + "HHI", tag, 3 if form == SHORT else 4, len(values))
        directory += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", far + len(more))
        more += raw if len(raw) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", 8 + len(body)) + body + directory + bytes(4) + more


GREY = np.dstack([RAMP] * 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_is_not_inverted_when_white_is_zero(bits: int, deflate: bool, order: str) -> None:
    samples = 2**bits - 1 - RAMP[..., None] * (2**bits - 1) // 255
    assert max_difference(tiff(samples, bits, 0, order, deflate=deflate), GREY) <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("extra", "deflate"), list(itertools.product((None, 0, 1, 2), (False, True))))
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_shows_its_colours_on_white_when_there_is_a_fourth_sample(
    bits: int, extra: int | None, deflate: bool, order: str
) -> None:
    samples, truth = NOISE.astype(float), COLOURS.astype(float)
    alpha = samples[..., 3:] / 255
    if extra is None:
        samples = samples[..., :3]
    elif extra == 1:
        samples[..., :3] = np.rint(samples[..., :3] * alpha)
    if extra:
        truth = (truth * alpha if extra == 2 else samples[..., :3]) + 255 * (1 - alpha)
    further = {} if extra is None else {"t338": (SHORT, [extra])}
    data = tiff(samples * (2**bits - 1) // 255, bits, 2, order, deflate=deflate, **further)
    assert max_difference(data, truth) <= 1.01


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "deflate"), [(8, False), (8, True), (16, True)])
@pytest.mark.parametrize("photometric", [2, 5])
def test_tiff_is_read_when_a_library_knows_its_planes(photometric: int, bits: int, deflate: bool, order: str) -> None:
    inks, black = 255 - COLOURS, NOISE[..., 3:]
    samples = COLOURS if photometric == 2 else np.dstack([inks, black])
    truth = COLOURS if photometric == 2 else COLOURS * (255 - black) / 255
    data = tiff(samples * (2**bits - 1) // 255, bits, photometric, order, planar=2, deflate=deflate)
    assert max_difference(data, truth) <= 1.01


def grey_and_alpha(alpha: Samples, **options: Any) -> bytes:
    return tiff(
        np.dstack([RAMP, alpha]), 8, 1, t338=(SHORT, [1 if options.pop("premultiplied", False) else 2]), **options
    )


def test_grey_tiff_is_on_white_when_it_has_alpha() -> None:
    alpha = NOISE[..., 0]
    assert max_difference(grey_and_alpha(alpha), GREY * alpha[..., None] / 255 + 255 - alpha[..., None]) <= 1
    below = np.maximum(alpha, RAMP)  # premultiplied levels are no higher than their alpha
    assert max_difference(grey_and_alpha(below, premultiplied=True), GREY + 255 - below[..., None]) <= 1.01


ONE = RAMP[..., None]
UNREAD_TIFFS = {
    "16-bit planes": (tiff(COLOURS * 257, 16, 2, planar=2), "16-bit RGB samples in planes, uncompressed,"),
    "16-bit alpha in planes": (
        tiff(NOISE * 257, 16, 2, ">", planar=2, t338=(SHORT, [2])),
        "16-bit RGB samples and alpha in planes",
    ),
    "16-bit CMYK planes": (tiff(NOISE * 257, 16, 5, planar=2), "16-bit CMYK samples in planes"),
    "white is 0, alpha": (tiff(NOISE[..., :2], 8, 0, t338=(SHORT, [2])), "grey (white is 0) samples and alpha"),
    "grey planes, alpha": (grey_and_alpha(RAMP, planar=2, deflate=True), "8-bit grey samples and alpha in planes"),
    "16-bit grey, more": (tiff(NOISE[..., :2], 16, 1, t338=(SHORT, [0])), "16-bit grey samples and a further channel"),
    "CMYK, alpha": (tiff(NOISE[..., [0, 1, 2, 3, 3]], 8, 5, t338=(SHORT, [2])), "8-bit CMYK samples and alpha"),
    "unnamed sample": (tiff(NOISE, 8, 2), "4 samples per pixel, of which some are not declared"),
    "signed 8": (tiff(ONE // 2, 8, 1, t339=(SHORT, [2])), "signed numbers"),
    "signed 16": (tiff(ONE, 16, 1, t339=(SHORT, [2])), "signed numbers"),
    "float": (tiff(ONE / 255, 32, 1, kind="f", t339=(SHORT, [3])), "floating-point numbers"),
    "32 bits": (tiff(ONE, 32, 1), "32-bit grey samples"),
    "12 bits": (tiff(ONE, 16, 1, t258=(SHORT, [12])), "12-bit grey samples"),
    "uneven bits": (tiff(COLOURS, 8, 2, t258=(SHORT, [5, 6, 5])), "samples of 5, 6, 5 bits"),
    "L*a*b*": (tiff(COLOURS, 8, 8), "L*a*b* samples"),
    "YCbCr": (tiff(COLOURS, 8, 6), "8-bit YCbCr samples"),
    "mask": (tiff(ONE, 8, 4), "mask samples"),
    "no colours": (tiff(ONE, 8, 1, t262=(SHORT, [])), "photometric interpretation"),
    "other inks": (tiff(NOISE, 8, 5, t332=(SHORT, [2])), "other inks"),
    "reversed bits": (tiff(ONE, 8, 1, t266=(SHORT, [2])), "the bits of each byte reversed"),
    "small palette": (tiff(ONE, 8, 3, t320=(SHORT, list(range(256)) * 3)), "a palette of 8-bit levels"),
    "thumbnail": (tiff(ONE, 8, 1, t254=(LONG, [1])), "thumbnail"),
    "compression": (tiff(ONE, 8, 1, t259=(SHORT, [34712])), "in compression 34712"),
    "big": (b"MM\0\x2b\0\x08\0\0" + bytes(40), "BigTIFF with its most significant bytes first"),
}


@pytest.mark.parametrize(("data", "variant"), UNREAD_TIFFS.values(), ids=UNREAD_TIFFS)
def test_tiff_is_refused_by_name_when_its_layout_is_not_known_for_certain(data: bytes, variant: str) -> None:
    message = refusal(data)
    assert variant in message
    assert "TIFF" in message


def test_tiff_is_refused_when_it_names_fewer_strips_than_it_has() -> None:
    data = tiff(ONE, 8, 1, t278=(LONG, [4]))
    assert "1 of its 4 parts" in refusal(data, "image.truncated")


# PNG (ISO/IEC 15948)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits: int, colour: int, rows: list[bytes], before: bytes = b"", after: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def grey_rows(samples: Samples, bits: int) -> list[bytes]:
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in samples]
    digits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    return [np.packbits(row).tobytes() for row in digits.reshape(HEIGHT, -1)]


@pytest.mark.parametrize("dirt", [0, 0xAB00])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_is_white_where_its_one_level_is_transparent(bits: int, dirt: int) -> None:
    max_level = 2**bits - 1
    samples = NOISE[..., 0].astype(int) * 257 & max_level
    clear = int(samples[3, 5])
    stored = clear if bits == 16 else clear | dirt  # only the lowest bits count
    data = png(bits, 0, grey_rows(samples, bits), chunk(b"tRNS", struct.pack(">H", stored)))
    truth = np.where(samples == clear, 255, samples * 255 / max_level)
    assert max_difference(data, np.dstack([truth] * 3)) <= 1
    assert (samples != clear).any()


def test_png_of_colours_is_white_where_its_one_colour_is_transparent() -> None:
    clear = COLOURS[3, 5]
    data = png(8, 2, ROWS, chunk(b"tRNS", struct.pack(">3H", *clear)))
    truth = np.where(np.equal(COLOURS, clear).all(axis=2, keepdims=True), 255, COLOURS)
    assert max_difference(data, truth) == 0
    deep = [row.astype(">u2").tobytes() for row in COLOURS * 257]
    data = png(16, 2, deep, chunk(b"tRNS", struct.pack(">3H", *clear * 257)))
    assert refusal(data).startswith("PNG with 16 bits per channel")


def test_palette_of_a_png_may_have_fewer_colours_than_its_transparency() -> None:
    rows = grey_rows(RAMP % 2, 8)
    data = png(8, 3, rows, chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", bytes([255, 0]) + bytes(300)))
    assert max_difference(data, np.dstack([RAMP % 2 * 255] * 3)) == 0


NEEDLESS = {
    "text of 2 MB": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 1_000_000)),
    "text of 80 MB in all": chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(1_000_000))) * 80,
    "profile of 2 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"profile " * 250_000)),
    "text of no kind": chunk(b"iTXt", b"t"),
    "profile of an unknown compression": chunk(b"iCCP", b"p\0\1zzz"),
    "broken sum": chunk(b"tEXt", b"t\0text")[:-1] + b"?",
    "short gamma": chunk(b"gAMA", b""),
    "short colours": chunk(b"cHRM", b"?"),
    "broken EXIF": chunk(b"eXIf", b"no directory"),
    "broken animation": chunk(b"acTL", b"?") + chunk(b"fcTL", b"?") + chunk(b"fdAT", b"?"),
    "unknown": chunk(b"prVt", bytes(10)),
    "orientation in XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
}


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("needless", NEEDLESS.values(), ids=NEEDLESS)
def test_png_is_read_whatever_its_pixels_do_not_need(needless: bytes, position: str) -> None:
    assert max_difference(png(8, 2, ROWS, **{position: needless}), COLOURS) == 0


def test_png_is_refused_when_it_has_a_chunk_that_nobody_may_skip() -> None:
    assert "CgBI" in refusal(png(8, 2, ROWS, chunk(b"CgBI", bytes(4))))


@pytest.mark.parametrize("position", ["before", "after"])
def test_png_stands_upright_wherever_its_exif_is(position: str) -> None:
    data = png(8, 2, ROWS, **{position: chunk(b"eXIf", turned().tobytes()[6:])})
    assert max_difference(data, np.rot90(COLOURS, -1)) == 0


# JPEG (ITU-T T.81)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


NEEDLESS_SEGMENTS = {
    "cut Photoshop block": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "broken index of pictures": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "profile in parts that are not there": segment(0xE2, b"ICC_PROFILE\0\1\5zzz"),
    "profile without a part": segment(0xE2, b"ICC_PROFILE\0"),
    "26 MB": segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(65_000)) * 400,
    "comment": segment(0xFE, b"?" * 60_000),
    "orientation in XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
}


@pytest.mark.parametrize("needless", NEEDLESS_SEGMENTS.values(), ids=NEEDLESS_SEGMENTS)
def test_jpeg_is_read_whatever_its_pixels_do_not_need(needless: bytes) -> None:
    plain = encoded(picture(), "JPEG")
    assert max_difference(plain[:2] + needless + plain[2:], decoded(plain)) == 0


def with_frame(at: int, value: int) -> bytes:
    """Return a JPEG with a changed byte in its frame."""
    data = bytearray(encoded(picture(), "JPEG"))
    data[data.index(b"\xff\xc0") + at] = value
    return bytes(data)


def without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


UNREAD_JPEGS = {
    "12 bits": (with_frame(4, 12), "JPEG with 12 bits per channel"),
    "two channels": (with_frame(9, 2), "JPEG with 2 channels"),
    "lossless": (with_frame(1, 0xC3), "JPEG that is lossless or hierarchical"),
    "JPEG-LS": (with_frame(1, 0xF7), "JPEG that is lossless or hierarchical"),
    "CMYK": (without_adobe(encoded(picture().convert("CMYK"), "JPEG")), "does not say whether its inks are inverted"),
}


@pytest.mark.parametrize(("data", "variant"), UNREAD_JPEGS.values(), ids=UNREAD_JPEGS)
def test_jpeg_is_refused_by_name_when_its_kind_is_not_read(data: bytes, variant: str) -> None:
    assert variant in refusal(data)


JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "fine": {"quality": 100, "subsampling": 0},
    "coarse": {"quality": 20},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "divided": {"restart_marker_rows": 1},
}


def jpeg(**options: Any) -> bytes:
    return encoded(picture().resize((90, 67)).convert(options.pop("mode", "RGB")), "JPEG", **options)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_jpeg_is_read_when_only_its_end_marker_is_missing(options: dict[str, Any], missing: int) -> None:
    whole = jpeg(**options)
    assert whole[-2:] == b"\xff\xd9"
    assert max_difference(whole[:-missing], decoded(whole)) == 0


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_jpeg_is_refused_when_pixels_are_missing_too(options: dict[str, Any]) -> None:
    whole = jpeg(**options)
    start = whole.rindex(b"\xff\xda") if options.get("progressive") else whole.index(b"\xff\xda")
    for size in (len(whole) - 12, len(whole) - 20, start, (start + len(whole)) // 2):
        for filling in (b"", bytes(50)):
            refusal(whole[:size] + filling, "image.truncated")


def test_jpeg_is_refused_when_a_part_of_it_is_missing() -> None:
    """Parts that begin with a marker are decoded by themselves: any number of them looks whole."""
    whole = jpeg(restart_marker_rows=1)
    last = max(whole.rfind(bytes((0xFF, 0xD0 + number))) for number in range(8))
    refusal(whole[:last], "image.truncated")


# Metadata of the others


@pytest.mark.parametrize(
    ("kind", "options"),
    [("TIFF", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})],
)
def test_picture_is_turned_as_exif_says_and_not_as_xmp_does(kind: str, options: dict[str, Any]) -> None:
    smooth = np.dstack([RAMP, RAMP.max() - RAMP, RAMP[::-1] // 2])
    image = Image.fromarray(smooth.astype(np.uint8))
    assert max_difference(encoded(image, kind, xmp=XMP, **options), smooth) <= 4
    assert max_difference(encoded(image, kind, xmp=XMP, exif=turned(8), **options), np.rot90(smooth)) <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("broken", [b"junk", b"MM\0*\xff\xff\xff\xff"])
def test_avif_is_read_when_its_exif_is_broken(broken: bytes) -> None:
    exif = Image.Exif()
    exif[271] = "a maker of cameras"
    whole = encoded(picture(), "AVIF", exif=exif, quality=100, subsampling="4:4:4")
    at = whole.rindex(b"MM\0*", 0, whole.index(b"a maker"))
    assert max_difference(whole[:at] + broken + whole[at + len(broken) :], decoded(whole)) == 0


# BMP, GIF, PNM


def bmp(bits: int, colours: list[int]) -> bytes:
    """Create a BMP of black and white, with a palette of this number of greys."""
    index = RAMP // 128
    digits = np.unpackbits(index.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(HEIGHT, -1)
    rows = [np.packbits(row).tobytes() for row in digits[::-1]]
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    palette = b"".join(bytes([grey] * 3 + [0]) for grey in colours)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, 0, len(body), 0, 0, len(colours), 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + header + palette + body


@pytest.mark.parametrize(("bits", "colours"), [(1, [0, 255]), (8, [0, 255, 7]), (4, [0, 255, 9]), (8, [10, 200])])
def test_bmp_is_read_when_it_has_a_palette(bits: int, colours: list[int]) -> None:
    assert max_difference(bmp(bits, colours), np.dstack([np.array(colours)[RAMP // 128]] * 3)) == 0


@pytest.mark.parametrize(("bits", "colours"), [(8, [0, 255]), (4, [0, 255]), (4, list(range(16)))])
def test_bmp_is_refused_when_its_palette_of_greys_would_be_taken_for_none(bits: int, colours: list[int]) -> None:
    assert f"BMP with {bits} bits" in refusal(bmp(bits, colours))


def gif(transparent: int | None) -> bytes:
    """A frame of 4 x 4 pixels of index 1 at (10, 5)."""
    small = Image.new("P", (4, 4), 1)
    small.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    whole = encoded(small, "GIF")
    at = whole.index(b",\0\0\0\0")
    control = b"" if transparent is None else b"!\xf9\x04\x01\0\0" + bytes([transparent, 0])
    place = struct.pack("<HHHH", 10, 5, 4, 4)
    return whole[:6] + struct.pack("<HH", WIDTH, HEIGHT) + whole[10:at] + control + b"," + place + whole[at + 9 :]


def test_gif_is_transparent_around_its_first_frame_or_refused() -> None:
    levels = decoded(gif(2))
    assert (levels[5:9, 10:14] == (0, 200, 0)).all()
    assert (levels[0] == 255).all()
    assert "GIF" in refusal(gif(None))


@pytest.mark.parametrize("max_level", [1, 7, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_pnm_is_scaled_by_its_largest_level(channels: int, max_level: int) -> None:
    samples = NOISE[..., :channels].astype(int) * 257 % (max_level + 1)
    body = samples.astype(np.uint8 if max_level < 256 else ">u2").tobytes()
    head = b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, WIDTH, HEIGHT, max_level)
    truth = samples * 255 / max_level
    assert max_difference(head + body, np.broadcast_to(truth, (HEIGHT, WIDTH, 3))) <= 1


# AVIF, JPEG 2000, HEIC


def test_avif_is_read_with_its_alpha() -> None:
    alpha = np.repeat(RAMP[..., None], 4, axis=2)
    alpha[..., :3] = 60
    data = encoded(Image.fromarray(alpha.astype(np.uint8), "RGBA"), "AVIF", quality=100)
    assert max_difference(data, np.broadcast_to(255 - RAMP[..., None] * 195 / 255, (HEIGHT, WIDTH, 3))) <= 3


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (16, 16)}])
def test_jpeg_2000_is_read_when_it_has_grey_or_colours(options: dict[str, Any]) -> None:
    assert max_difference(encoded(picture(), "JPEG2000", **options), COLOURS) == 0
    grey = Image.fromarray(RAMP.astype(np.uint8))
    assert max_difference(encoded(grey, "JPEG2000", **options), GREY) == 0
    if "tile_size" not in options:  # of 16 bits, Pillow writes broken tiles
        deep = Image.fromarray((RAMP * 257).astype(np.uint16))
        assert max_difference(encoded(deep, "JPEG2000", **options), GREY) <= 1


def with_size(at: int, value: int) -> bytes:
    """Return a JPEG 2000 with a changed size or number of channels in its codestream (A.5.1)."""
    data = bytearray(encoded(picture(), "JPEG2000"))
    data[data.index(b"\xff\x4f\xff\x51") + at] = value
    return bytes(data)


def with_depth(bits: int) -> bytes:
    """Return a JPEG 2000 whose three channels have `bits` + 1 bits."""
    data = bytearray(with_size(42, bits))
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 45] = data[at + 48] = bits
    return bytes(data)


def with_grey_depth(bits: int) -> bytes:
    data = bytearray(encoded(Image.fromarray((RAMP * 257).astype(np.uint16)), "JPEG2000"))
    data[data.index(b"\xff\x4f\xff\x51") + 42] = bits
    return bytes(data)


UNREAD_JPEG_2000S = {
    "alpha": (encoded(picture().convert("RGBA"), "JPEG2000"), "with 4 channels"),
    "YCbCr": (encoded(picture().convert("YCbCr"), "JPEG2000"), "other colours than RGB and grey"),
    "16-bit colours": (with_depth(15), "3 channels of 16 bits"),
    "12-bit grey": (with_grey_depth(11), "1 channel of 12 bits"),
    "signed": (with_size(42, 0x87), "channels differ or are signed"),
    "1 bit": (with_depth(0), "3 channels of 1 bits"),
    "fewer pixels in a channel": (with_size(46, 2), "channels differ or are signed"),
}


@pytest.mark.parametrize(("data", "variant"), UNREAD_JPEG_2000S.values(), ids=UNREAD_JPEG_2000S)
def test_jpeg_2000_is_refused_by_name_when_its_channels_are_not_known_for_certain(data: bytes, variant: str) -> None:
    message = refusal(data)
    assert variant in message
    assert message.startswith("JPEG 2000 ")


SIZE = struct.pack(">II", 12_000, 12_000)


def bombs() -> dict[str, bytes]:
    """Files whose headers have a size of 12,000 x 12,000 pixels."""
    avif = encoded(picture(), "AVIF")
    at = avif.index(b"ispe") + 8
    jp2 = bytearray(encoded(picture(), "JPEG2000"))
    at_2000, header = jp2.index(b"\xff\x4f\xff\x51"), jp2.index(b"ihdr") + 4
    jp2[header : header + 8] = jp2[at_2000 + 8 : at_2000 + 16] = SIZE
    return {"AVIF": avif[:at] + SIZE + avif[at + 8 :], "JPEG2000": bytes(jp2)}


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_picture_is_refused_before_it_is_decoded_when_it_claims_too_many_pixels(kind: str) -> None:
    assert refusal(bombs()[kind], "image.pixels").startswith("12,000 x 12,000 ")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_heic_is_read_when_its_package_is_there() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    smooth = np.dstack([RAMP, RAMP.max() - RAMP, RAMP[::-1] // 2])
    data = encoded(Image.fromarray(smooth.astype(np.uint8)), "HEIF", quality=95, exif=turned().tobytes())
    assert max_difference(data, np.rot90(smooth, -1)) <= 8
    assert "HEIF" in refusal(HEIC, "image.header")


def test_heic_is_refused_with_the_extra_that_reads_it_when_its_package_is_missing() -> None:
    code = f"""if True:
        import sys
        sys.modules["pillow_heif"] = None  # an import of it fails
        from tritonkit.images.preprocess import ImageError, decode_image
        try:
            decode_image({HEIC!r})
        except ImageError as error:
            print(error)
    """
    assert "pip install 'tritonkit[heic]'" in run_python("-c", code).stdout


def test_avif_is_refused_by_name_when_pillow_is_older() -> None:
    code = """if True:
        import sys
        sys.modules["PIL.AvifImagePlugin"] = None
        from tritonkit.images.preprocess import ImageError, decode_image
        try:
            decode_image(b"\\0\\0\\0\\x1cftypavif\\0\\0\\0\\0avifmif1miaf")
        except ImageError as error:
            print(error)
    """
    assert "AVIF needs a newer Pillow than" in run_python("-c", code).stdout


# Names


UNREAD = {
    "ICO": encoded(picture(), "ICO"),
    "TGA": encoded(picture(), "TGA"),
    "PDF": encoded(picture(), "PDF"),
    "PostScript": encoded(picture(), "EPS"),
    "DDS": encoded(picture(), "DDS"),
    "PSD": b"8BPS\0\1" + bytes(50),
    "JPEG XL": b"\xff\x0a" + bytes(50),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(50),
    "DICOM": bytes(128) + b"DICM" + bytes(50),
    "PAM": b"P7\nWIDTH 1\n",
    "PFM": b"Pf\n1 1\n-1.0\n" + bytes(4),
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0mp41iso2" + bytes(50),
    "SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("kind", UNREAD)
def test_file_is_named_when_its_kind_is_known_and_not_read(kind: str) -> None:
    assert refusal(UNREAD[kind]).startswith(kind)


@pytest.mark.parametrize("text", [b"P6 is a kind of picture", b"BMW and Audi are makers of cars, not of pictures"])
def test_text_is_no_truncated_picture_when_it_begins_like_one(text: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(text)
    assert caught.value.code in ("image.unknown_format", "image.header")


def test_formats_and_names_of_files_are_those_that_pillow_knows() -> None:
    Image.init()
    pytest.importorskip("pillow_heif").register_heif_opener()
    assert set(FORMATS) <= Image.OPEN.keys()
    assert {Image.EXTENSION.get(suffix, "JPEG") for suffix in SUFFIXES - {".jpf", ".jfif"}} <= {*FORMATS, "DIB"}
    assert set(picture_formats._PLUGINS) | {"HEIF"} == set(FORMATS)
