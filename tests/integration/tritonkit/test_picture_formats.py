"""Image formats that decoders misread: decoded correctly, or refused by name. The files are generated here."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tritonkit.images.preprocess import ImageArray, ImageError, decode_image

Samples = NDArray[Any]


def decoded(data: bytes) -> ImageArray:
    return np.asarray(decode_image(data))


def refusal(data: bytes, code: str = "image.unsupported_format") -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.code == code
    return str(caught.value)


def max_difference(data: bytes, truth: Samples) -> float:
    levels = decoded(data)
    assert levels.shape == truth.shape
    return float(np.abs(levels - truth).max())


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def jpeg(cat: Image.Image, **options: Any) -> bytes:
    return encoded(cat.resize((90, 67)).convert(options.pop("mode", "RGB")), "JPEG", **options)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_jpeg_is_read_when_only_its_end_marker_is_missing(
    cat: Image.Image, options: dict[str, Any], missing: int
) -> None:
    whole = jpeg(cat, **options)
    assert whole[-2:] == b"\xff\xd9"
    assert max_difference(whole[:-missing], decoded(whole)) == 0


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_jpeg_is_refused_when_pixels_are_missing_too(cat: Image.Image, options: dict[str, Any]) -> None:
    whole = jpeg(cat, **options)
    start = whole.rindex(b"\xff\xda") if options.get("progressive") else whole.index(b"\xff\xda")
    for size in (len(whole) - 12, len(whole) - 20, start, (start + len(whole)) // 2):
        for filling in (b"", bytes(50)):
            refusal(whole[:size] + filling, "image.truncated")


def test_jpeg_is_refused_when_a_part_of_it_is_missing(cat: Image.Image) -> None:
    """Parts that begin with a marker are decoded by themselves: any number of them looks whole."""
    whole = jpeg(cat, restart_marker_rows=1)
    last = max(whole.rfind(bytes((0xFF, 0xD0 + number))) for number in range(8))
    refusal(whole[:last], "image.truncated")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


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
    assert "pip install 'tritonkit[heic]'" in python(code)


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
    assert "AVIF needs a newer Pillow than" in python(code)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
