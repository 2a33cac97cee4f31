from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.inputs import batches_of, load_sample_images
from tests.errors import raises
from tritonkit.errors import DataError, InputError
from tritonkit.golden import Golden
from tritonkit.spec import ModelSpec


def test_the_golden_sample_is_sent_by_default(spec: ModelSpec, images: NDArray[np.uint8], tmp_path: Path) -> None:
    Golden(images, {}, source="cats").save(tmp_path / "golden.npz")
    pictures = load_sample_images(spec.preprocess, None, tmp_path)
    assert np.array_equal(pictures.images, images)
    assert pictures.source == f"cats ({tmp_path / 'golden.npz'})"


def test_a_folder_goes_before_the_golden_sample(spec: ModelSpec, tmp_path: Path) -> None:
    for name, colour in (("b.png", "red"), ("a.JPG", "blue"), ("notes.txt", "")):
        if colour:
            Image.new("RGB", (30, 20), colour).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("no picture")
    pictures = load_sample_images(spec.preprocess, tmp_path, tmp_path / "nowhere")
    assert pictures.images.shape == (2, 8, 8, 3)
    assert pictures.images[1, 0, 0].tolist() == [255, 0, 0]


def test_a_broken_picture_is_named(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    with raises(DataError, "image.unreadable", "broken.png"):
        load_sample_images(spec.preprocess, tmp_path, tmp_path)


def test_the_way_out_is_told_when_there_are_no_pictures(spec: ModelSpec, tmp_path: Path) -> None:
    with raises(InputError, "benchmark.no_images"):
        load_sample_images(spec.preprocess, None, tmp_path)
    with raises(InputError, "benchmark.empty_folder"):
        load_sample_images(spec.preprocess, tmp_path, tmp_path)


def test_batches_go_through_all_images(images: NDArray[np.uint8]) -> None:
    batches = batches_of(images, 2)
    assert [batch.shape[0] for batch in batches] == [2, 2, 2]
    assert np.array_equal(np.concatenate(batches), images[[0, 1, 2, 3, 4, 0]])
