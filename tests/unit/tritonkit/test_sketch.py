"""The drift sketch: a sample of answers of each task, saved and loaded unchanged; a damaged one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import raises
from tests.fixture_types import NetworkOf
from tests.task_specs import TASK_SPECS
from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.sketch import MAX_IMAGES, PICTURE_COLUMNS, Sketch, SketchSampler, picture_values
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.tasks import task_for

COLUMNS = {
    "multiclass": {"probabilities": ("cat", "dog", "bird", "highest probability")},
    "multilabel": {"probabilities": ("sky", "grass")},
    "embedding": {"embedding": tuple(map(str, range(1, 9)))},
    "segmentation": {"mask": ("background", "stamp")},
    "heads": {"kind": ("cat", "dog", "bird", "highest probability"), "vector": tuple(map(str, range(1, 9)))},
}


def random_images(count: int, side: int = 32) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def sketch_of(spec: ModelSpec, count: int) -> Sketch:
    """A sketch of answers that say one label more and more often."""
    sampler = SketchSampler(spec)
    share = np.linspace(0, 1, count, dtype=np.float32)
    outputs = {"probabilities": np.stack([share, 1 - share, 0 * share], axis=1)}
    sampler.add(random_images(count, 8), outputs)
    return sampler.sketch("random pixels", "2")


@pytest.mark.parametrize("name", TASK_SPECS)
def test_sketch_is_the_same_when_saved_and_loaded(name: str, network_of: NetworkOf, tmp_path: Path) -> None:
    runner = TorchRunner(network_of(TASK_SPECS[name]), origin="a test")
    images = random_images(5, runner.spec.input.shape[0])
    sampler = SketchSampler(runner.spec)
    sampler.add(images, runner.infer(images))
    sketch = sampler.sketch("random pixels", "2")
    sketch.save(tmp_path / "sketch.npz")
    loaded = Sketch.load(tmp_path / "sketch.npz")
    assert {head: summary.columns for head, summary in loaded.outputs.items()} == COLUMNS[name]
    assert (loaded.spec, loaded.source, loaded.version) == (runner.spec.public(), "random pixels", "2")
    np.testing.assert_array_equal(loaded.pictures, sketch.pictures)
    for head, summary in sketch.outputs.items():
        np.testing.assert_array_equal(loaded.outputs[head].values, summary.values)
        np.testing.assert_array_equal(loaded.outputs[head].labels, summary.labels)


def test_summary_has_the_shares_of_pixels_when_the_answer_is_a_mask() -> None:
    task_spec = TaskSpec(task="segmentation", labels=("ground", "thing", "other"))
    mask = np.zeros((2, 4, 5), np.uint8)
    mask[0, :2] = 1
    summary = task_for(task_spec).summarize({"mask": mask})["mask"]
    np.testing.assert_allclose(summary.values, [[0.5, 0.5, 0], [1, 0, 0]], atol=1e-3)
    assert summary.labels.tolist() == [[True, True, False], [True, False, False]]


def test_labels_of_a_summary_reach_their_thresholds_when_the_task_has_some() -> None:
    task = task_for(TaskSpec(task="multilabel", labels=("sky", "grass"), thresholds={"sky": 0.4}))
    probabilities = np.array([[0.42, 0.42], [0.39, 0.5]], np.float32)
    summary = task.summarize({"probabilities": probabilities})["probabilities"]
    assert summary.labels.tolist() == [[True, False], [False, True]]


def test_every_image_has_the_same_chance_when_there_are_more_than_a_sketch_holds(spec: ModelSpec) -> None:
    sampler, count = SketchSampler(spec), 4 * MAX_IMAGES
    share = np.linspace(0, 1, count, dtype=np.float32)
    outputs = np.stack([share, 1 - share, 0 * share], axis=1)
    for start in range(0, count, 50):
        sampler.add(random_images(50, 2), {"probabilities": outputs[start : start + 50]})
    sketch = sampler.sketch("a ramp")
    assert (sampler.seen, sketch.images) == (count, MAX_IMAGES)
    assert len(set(sampler.numbers)) == MAX_IMAGES
    np.testing.assert_allclose(sketch.outputs["probabilities"].values[:, 0], share[sampler.numbers], atol=0.006)
    quarters = np.histogram(sampler.numbers, bins=4, range=(0, count))[0]
    assert quarters.min() > 200  # of 250 expected, with a standard deviation of 14


def test_picture_values_tell_dark_and_blurred_pictures_when_compared() -> None:
    image = random_images(1)
    dark = (image // 2).astype(np.uint8)
    blurred = np.repeat(np.repeat(image[:, ::4, ::4], 4, axis=1), 4, axis=2)
    grey = np.repeat(image[..., :1], 3, axis=3)
    values = picture_values(np.concatenate([image, dark, blurred, grey])).astype(np.float64)
    brightness, contrast, sharpness, colour = (values[:, PICTURE_COLUMNS.index(name)] for name in PICTURE_COLUMNS)
    assert brightness[1] == pytest.approx(brightness[0] / 2, rel=0.02)
    assert contrast[1] == pytest.approx(contrast[0] / 2, rel=0.02)
    assert sharpness[2] < sharpness[0] / 3
    assert colour[3] == 0 < colour[0]


def test_differing_fields_are_named_when_the_model_is_another(spec: ModelSpec) -> None:
    sketch = sketch_of(spec, 3)
    assert sketch.differing_fields(spec.model_copy(update={"name": "other"})) == []
    assert sketch.differing_fields(spec.model_copy(update={"labels": ("cat", "dog", "cow")})) == ["labels"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"pictures": np.zeros((3, 3), np.float16)}, "sketch.array"),
        ({"pictures": np.zeros((0, 4), np.float16)}, "sketch.array"),
        ({"pictures": np.full((3, 4), np.nan, np.float16)}, "sketch.array"),
        ({"values.probabilities": np.zeros((3, 4))}, "sketch.array"),
        ({"values.probabilities": np.zeros((2, 4), np.float16)}, "sketch.array"),
        ({"labels.probabilities": np.zeros((3, 4), np.bool_)}, "sketch.array"),
        ({"pictures": np.array([{}], dtype=object)}, "sketch.unreadable"),
    ],
)
def test_sketch_is_refused_when_an_array_is_wrong(
    spec: ModelSpec, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    path = tmp_path / "sketch.npz"
    sketch_of(spec, 3).save(path)
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **changes})
    with raises(ArtifactError, code):
        Sketch.load(path)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"text"])
def test_sketch_is_refused_when_it_is_no_archive(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sketch.npz"
    if content is not None:
        path.write_bytes(content)
    with raises(ArtifactError, "sketch.unreadable"):
        Sketch.load(path)
