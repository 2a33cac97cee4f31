"""The pixel budget: large images are decoded a few at a time, in little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.programs import run_python
from tritonkit.images.pixel_budget import PixelBudget
from tritonkit.images.preprocess import ImageError, Preprocess, load_image

SIDE = 4000
MIB = 2**20


def test_room_is_asked_for_before_a_picture_is_decoded(photos: Path) -> None:
    class NoRoomError(Exception):
        """Raised in place of waiting."""

    def none(pixels: int) -> PixelBudget:
        raise NoRoomError(pixels)

    cat = photos / "cat.jpg"
    width, height = Image.open(cat).size
    with pytest.raises(NoRoomError) as caught:
        load_image(cat.read_bytes(), Preprocess(24, 24), none)  # type: ignore[arg-type] - it never comes to it
    assert caught.value.args == (width * height + 24 * max(width, height),)
    with pytest.raises(ImageError, match=f"{width * height - 1:,}") as refused:
        load_image(cat.read_bytes(), Preprocess(24, 24), max_pixels=width * height - 1)
    assert refused.value.code == "image.pixels"


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_picture_takes_little_more_than_itself_and_its_colours(tmp_path: Path, mode: str) -> None:
    for side, name in ((8, "small.png"), (SIDE, "large.png")):
        Image.new(mode, (side, side)).save(tmp_path / name, compress_level=1)
    code = """if True:
        import resource
        from pathlib import Path
        from tritonkit.images.preprocess import Preprocess, load_file
        for name in ("small.png", "large.png"):
            load_file(Path(name), Preprocess(24, 24))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    process = run_python("-c", code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    before, after = map(int, process.stdout.split())
    assert after - before < 8 * SIDE**2 + 32 * MIB, "twice 4 bytes a pixel, and what a band takes"
