"""The pictures of local files, lists, archives and videos, and their order."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.picture import Picture


def png(level: int = 0) -> bytes:
    return encoded(Image.new("RGB", (8, 6), (level, 0, 0)))


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them in a subfolder, and files that are not images."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    for number, name in enumerate(["c.png", "b/a.PNG", "b.png"]):
        (tmp_path / "in" / name).write_bytes(png(number))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(png())
    return tmp_path / "in"


LISTS_FOLDERS = """
import sys
from client.sources import find_pictures
for picture in find_pictures(sys.argv[1:]).pictures:
    try:
        picture.content()
        print(picture.name)
    except ValueError as error:
        print(picture.name, error)
"""


@pytest.mark.parametrize("path", ["in", "in/*", "in/**/*.png", "in/locked"])
def test_folder_that_may_not_be_listed_is_a_row(folder: Path, path: str) -> None:
    (folder / "locked").mkdir(mode=0o000)
    rights = "-dac_override,-dac_read_search"
    without_rights = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "--"] if os.getuid() == 0 else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(
        [*without_rights, sys.executable, "-c", LISTS_FOLDERS, path],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = ended.stdout.splitlines()
    assert any(row.startswith("in/locked ") and row.endswith("(Permission denied)") for row in rows)
    assert path == "in/locked" or "in/b.png" in rows


def decode_picture(picture: Picture) -> Image.Image:
    content = picture.content()
    assert isinstance(content, Image.Image)
    return content


def level(picture: Picture) -> float:
    return float(np.asarray(decode_picture(picture))[:, :24].mean())
