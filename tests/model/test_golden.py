"""The golden sample: it travels whole, and a broken one is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import ArtifactError
from model.golden import Golden, beside_checkpoint
from model.preprocess import ImageArray

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.fixture
def golden(batch: ImageArray) -> Golden:
    probabilities = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    return Golden(batch, {"probabilities": probabilities}, np.array([0, 2, 1, 0]), source="four photographs")


def test_golden_is_equal_when_read_back(tmp_path: Path, golden: Golden) -> None:
    golden.save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert back.images.dtype == np.uint8
    assert np.array_equal(back.images, golden.images)
    assert back.outputs.keys() == {"probabilities"}
    assert back.outputs["probabilities"].tobytes() == golden.outputs["probabilities"].tobytes()
    assert back.targets is not None
    assert back.targets.tolist() == [0, 2, 1, 0]
    assert back.source == "four photographs"
    assert list(tmp_path.iterdir()) == [tmp_path / "golden.npz"]


def test_golden_says_unknown_when_there_are_no_outputs_or_targets(tmp_path: Path, batch: ImageArray) -> None:
    Golden(batch, {}).save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert (back.outputs, back.targets) == ({}, None)


def test_golden_keeps_an_output_apart_when_it_is_named_like_a_field(tmp_path: Path, batch: ImageArray) -> None:
    Golden(batch, {"images": np.ones((4, 2)), "targets": np.zeros((4, 1))}).save(tmp_path / "golden.npz")
    back = Golden.load(tmp_path / "golden.npz")
    assert back.outputs["images"].shape == (4, 2)
    assert back.images.shape == batch.shape
    assert back.targets is None


def test_golden_is_refused_when_it_would_unpickle(tmp_path: Path, batch: ImageArray) -> None:
    np.savez(tmp_path / "golden.npz", images=batch, source=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArtifactError, match=r"golden\.npz: not a readable golden sample"):
        Golden.load(tmp_path / "golden.npz")


def test_golden_is_refused_when_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent\.npz"):
        Golden.load(tmp_path / "absent.npz")


def test_golden_is_refused_when_there_are_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", source=np.array("x"), targets=np.zeros(4))
    with pytest.raises(ArtifactError, match="images"):
        Golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_golden_is_refused_when_it_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match="not a readable golden sample"):
        Golden.load(tmp_path / "golden.npz")


def test_golden_is_refused_when_it_is_a_single_array(tmp_path: Path, batch: ImageArray) -> None:
    with (tmp_path / "golden.npz").open("wb") as file:
        np.save(file, batch)
    with pytest.raises(ArtifactError, match="not a readable golden sample"):
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


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"images": IMAGES.astype(np.float32)}, r"uint8 \[N, H, W, 3\], got float32 \[4, 8, 8, 3\]"),
        ({"images": IMAGES[0]}, r"got uint8 \[8, 8, 3\]"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"got uint8 \[4, 3, 8, 8\]"),
        ({"output.p": np.zeros((3, 2))}, r"4 images, but p is \[3, 2\]"),
        ({"output.p": np.zeros(())}, r"4 images, but p is \[\]"),
        ({"targets": np.zeros(5)}, r"4 images, but targets is \[5\]"),
    ],
)
def test_golden_is_refused_when_arrays_disagree(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    np.savez(tmp_path / "golden.npz", source=np.array("x"), **{"images": IMAGES, **arrays})
    with pytest.raises(ArtifactError, match=why):
        Golden.load(tmp_path / "golden.npz")


def test_beside_checkpoint_prefers_the_sample_of_that_name_when_there_are_two(
    tmp_path: Path, batch: ImageArray
) -> None:
    assert beside_checkpoint(tmp_path / "best.safetensors") is None
    Golden(batch, {}, source="the folder's").save(tmp_path / "golden.npz")
    Golden(batch, {}, source="its own").save(tmp_path / "best.golden.npz")
    found = [beside_checkpoint(tmp_path / f"{stem}.safetensors") for stem in ("best", "last")]
    assert [golden and golden.source for golden in found] == ["its own", "the folder's"]
