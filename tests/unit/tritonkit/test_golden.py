"""The golden sample: saved and loaded unchanged; a damaged one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import raises
from tritonkit.errors import ArtifactError
from tritonkit.golden import Golden

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def test_golden_is_refused_when_there_is_no_such_file(tmp_path: Path) -> None:
    with raises(ArtifactError, "golden.unreadable"):
        Golden.load(tmp_path / "absent.npz")


def test_golden_is_refused_when_there_are_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", source=np.array("x"), targets=np.zeros(4))
    with raises(ArtifactError, "golden.unreadable"):
        Golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_golden_is_refused_when_it_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with raises(ArtifactError, "golden.unreadable"):
        Golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("arrays", "code", "shape"),
    [
        ({"images": IMAGES.astype(np.float32)}, "golden.image_type", "float32 [4, 8, 8, 3]"),
        ({"images": IMAGES[0]}, "golden.image_type", "uint8 [8, 8, 3]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "golden.image_type", "uint8 [4, 3, 8, 8]"),
        ({"output.p": np.zeros((3, 2))}, "golden.shape", "p is [3, 2]"),
        ({"output.p": np.zeros(())}, "golden.shape", "p is []"),
        ({"target.p": np.zeros(5)}, "golden.shape", "target p is [5]"),
        ({"geometries": np.zeros((3, 10))}, "golden.shape", "geometries is [3, 10]"),
        ({"geometries": np.zeros((4, 9))}, "golden.shape", "geometries is [4, 9]"),
    ],
)
def test_golden_is_refused_when_arrays_disagree(tmp_path: Path, arrays: dict[str, Any], code: str, shape: str) -> None:
    np.savez(tmp_path / "golden.npz", source=np.array("x"), **{"images": IMAGES, **arrays})
    with raises(ArtifactError, code, shape):
        Golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0.0), (0, 1e9), (1, np.nan), (2, -1.0), (4, 0.0), (4, 101.0), (6, -3.0), (8, 8.5), (9, np.inf)],
    ids=["no-width", "endless", "nan", "left-of-it", "empty-box", "right-of-it", "before", "behind", "infinite"],
)
def test_golden_is_refused_when_a_geometry_is_of_no_picture(tmp_path: Path, place: int, value: float) -> None:
    geometries = np.tile([100.0, 80.0, 10.0, 0.0, 90.0, 80.0, 0.0, 0.0, 8.0, 8.0], (4, 1))
    Golden(IMAGES, {}, geometries=geometries).save(tmp_path / "golden.npz")
    assert Golden.load(tmp_path / "golden.npz").geometry_values is not None
    geometries[2, place] = value
    Golden(IMAGES, {}, geometries=geometries).save(tmp_path / "golden.npz")
    with raises(ArtifactError, "golden.geometry"):
        Golden.load(tmp_path / "golden.npz")
