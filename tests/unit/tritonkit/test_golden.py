"""The golden sample: saved and loaded unchanged; a damaged one is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import raises
from tritonkit.errors import ArtifactError
from tritonkit.golden import Golden, golden_of_checkpoint, pack_geometries
from tritonkit.images.preprocess import Geometry, ImageArray

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


@pytest.fixture
def golden(batch: ImageArray) -> Golden:
    probabilities = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    targets = {"probabilities": np.array([0, 2, 1, 0]), "vector": np.array([7, 7, 2**31, 0])}
    geometries = [Geometry((600 + i, 400), (0.5, 0.0, 400.25, 400.0), (0.0, 8.0, 32.0, 24.0)) for i in range(4)]
    return Golden(
        batch, {"probabilities": probabilities}, targets, pack_geometries(geometries), source="four photographs"
    )


def test_golden_is_equal_when_read_back(tmp_path: Path, golden: Golden) -> None:
    golden.save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert back.images.dtype == np.uint8
    assert np.array_equal(back.images, golden.images)
    assert back.outputs.keys() == {"probabilities"}
    assert back.outputs["probabilities"].tobytes() == golden.outputs["probabilities"].tobytes()
    assert {name: array.tolist() for name, array in back.targets.items()} == {
        "probabilities": [0, 2, 1, 0],
        "vector": [7, 7, 2**31, 0],
    }
    assert back.geometry_values == golden.geometry_values
    assert back.geometry_values is not None
    assert back.geometry_values[3] == Geometry((603, 400), (0.5, 0.0, 400.25, 400.0), (0.0, 8.0, 32.0, 24.0))
    assert back.source == "four photographs"
    assert list(tmp_path.iterdir()) == [tmp_path / "golden.npz"]


def test_golden_says_unknown_when_there_are_no_outputs_or_targets(tmp_path: Path, batch: ImageArray) -> None:
    Golden(batch, {}).save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert (back.outputs, back.targets, back.geometries, back.geometry_values) == ({}, {}, None, None)


def test_golden_keeps_an_output_apart_when_it_is_named_like_a_field(tmp_path: Path, batch: ImageArray) -> None:
    outputs = {"images": np.ones((4, 2)), "geometries": np.zeros((4, 1)), "target.x": np.zeros((4, 1))}
    Golden(batch, outputs).save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert back.outputs["images"].shape == (4, 2)
    assert back.images.shape == batch.shape
    assert back.outputs.keys() == outputs.keys()
    assert (back.targets, back.geometries) == ({}, None)


def test_golden_keeps_masks_as_they_are_when_they_are_truths(tmp_path: Path, batch: ImageArray) -> None:
    masks = np.random.default_rng(0).integers(0, 256, (4, 32, 32), np.uint8)
    Golden(batch, {"mask": masks // 2}, {"mask": masks}).save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert (back.targets["mask"].dtype, back.outputs["mask"].dtype) == (np.uint8, np.uint8)
    assert np.array_equal(back.targets["mask"], masks)


def test_golden_is_refused_when_it_would_unpickle(tmp_path: Path, batch: ImageArray) -> None:
    np.savez(tmp_path / "golden.npz", images=batch, source=np.array([{"a": 1}], dtype=object))
    with raises(ArtifactError, "golden.unreadable"):
        Golden.load(tmp_path / "golden.npz")


def test_golden_is_refused_when_it_is_a_single_array(tmp_path: Path, batch: ImageArray) -> None:
    with (tmp_path / "golden.npz").open("wb") as file:
        np.save(file, batch)
    with raises(ArtifactError, "golden.unreadable"):
        Golden.load(tmp_path / "golden.npz")


def test_golden_raises_no_other_error_when_bytes_are_damaged(tmp_path: Path, golden: Golden) -> None:
    path, chance, refused = tmp_path / "golden.npz", random.Random(0), 0
    golden.save(path)
    whole = path.read_bytes()
    for _ in range(100):
        changed = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(4):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            Golden.load(path)
        except ArtifactError:
            refused += 1
    assert refused > 80


def test_beside_checkpoint_prefers_the_sample_of_that_name_when_there_are_two(
    tmp_path: Path, batch: ImageArray
) -> None:
    assert golden_of_checkpoint(tmp_path / "best.safetensors") is None
    Golden(batch, {}, source="the folder's").save(tmp_path / "golden.npz")
    Golden(batch, {}, source="its own").save(tmp_path / "best.golden.npz")
    found = [golden_of_checkpoint(tmp_path / f"{stem}.safetensors") for stem in ("best", "last")]
    assert [golden and golden.source for golden in found] == ["its own", "the folder's"]
