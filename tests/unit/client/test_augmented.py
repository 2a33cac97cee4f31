"""Test-time augmentation: what views are asked, and how their answers become one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixture_types import Command, NetworkOf
from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import save_network
from tritonkit.runtimes import Outputs, Runner, open_artifact
from tritonkit.runtimes.augmented import AugmentedRunner
from tritonkit.spec import ModelSpec, TaskSpec

MASKS = TaskSpec(task="segmentation", labels=("ground", "thing", "other"))
SOFT = TaskSpec(task="segmentation", labels=("ground", "thing"), probability=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


class Columns(Runner):
    """Answers each pixel by its place: the class is the number of the third of the width it lies in."""

    origin = "columns"

    def __init__(self, spec: ModelSpec, upside: bool = False) -> None:
        self.spec = spec

    def _infer(self, batch: ImageArray) -> Outputs:
        count, height, width = batch.shape[:3]
        thirds = np.arange(width) * 3 // width
        return {"mask": np.broadcast_to(thirds.astype(np.uint8), (count, height, width))}


@pytest.fixture
def runner(tmp_path: Path, network_of: NetworkOf) -> Callable[[TaskSpec], Runner]:
    def opened(task_spec: TaskSpec) -> Runner:
        path = tmp_path / "asked.safetensors"
        save_network(path, network_of(task_spec))
        return open_artifact(path)

    return opened


@pytest.mark.parametrize(("views", "axes"), [("flip", [(), (2,)]), ("flips", [(), (2,), (1,), (1, 2)])])
def test_probabilities_are_the_mean_of_the_views(
    runner: Callable[[TaskSpec], Runner], views: str, axes: list[tuple[int, ...]]
) -> None:
    plain = runner(TaskSpec(task="multiclass", labels=("a", "b", "c")))
    expected = np.mean([plain.infer(np.flip(IMAGES, axis))["probabilities"] for axis in axes], axis=0)
    answers = AugmentedRunner(plain, views).infer(IMAGES)["probabilities"]
    assert answers == pytest.approx(expected, abs=1e-6)
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_embedding_is_the_direction_between_the_views_and_a_unit_long(runner: Callable[[TaskSpec], Runner]) -> None:
    plain = runner(TaskSpec(task="embedding", embedding_size=8))
    answers = AugmentedRunner(plain, "flip").infer(IMAGES)["embedding"]
    total = plain.infer(IMAGES)["embedding"] + plain.infer(IMAGES[:, :, ::-1])["embedding"]
    assert answers == pytest.approx(total / np.linalg.norm(total, axis=1, keepdims=True), abs=1e-5)


def test_probability_of_a_mask_is_turned_back_before_it_is_averaged(runner: Callable[[TaskSpec], Runner]) -> None:
    plain = runner(SOFT)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    answers = AugmentedRunner(plain, "flip").infer(images)
    turned = plain.infer(images[:, :, ::-1])["probability"][:, :, ::-1]
    expected = (plain.infer(images)["probability"] + turned) / 2
    assert answers["probability"] == pytest.approx(expected, abs=1e-6)
    assert (answers["mask"] == (expected >= 0.5)).mean() > 0.999


def test_classes_are_voted_on_and_the_plain_view_decides_a_tie(runner: Callable[[TaskSpec], Runner]) -> None:
    columns = Columns(runner(MASKS).spec)
    images = np.zeros((1, 64, 64, 3), np.uint8)
    # Two views see thirds 0, 1, 2 from the left, two see them from the right: a tie but in the middle.
    assert (AugmentedRunner(columns, "flips").infer(images)["mask"] == columns.infer(images)["mask"]).all()


def test_two_views_are_refused_when_they_would_vote_on_classes(runner: Callable[[TaskSpec], Runner]) -> None:
    with pytest.raises(InputError) as caught:
        AugmentedRunner(runner(MASKS), "flip")
    assert "flips" in str(caught.value)


class SecondViewBroken(Runner):
    """Answers unit vectors; of what is not asked first, zeros or NaN."""

    origin = "second view broken"

    def __init__(self, spec: ModelSpec, value: float) -> None:
        self.spec, self._value, self._requests = spec, value, 0

    def _infer(self, batch: ImageArray) -> Outputs:
        self._requests += 1
        vectors = np.full((len(batch), 4), 0.5, np.float32)
        if self._requests > 1:
            vectors[0] = self._value
        return {"embedding": vectors}


@pytest.mark.parametrize("value", [0, np.nan])
def test_answer_is_faulty_when_one_view_s_is(runner: Callable[[TaskSpec], Runner], value: float) -> None:
    vectors = runner(TaskSpec(task="embedding", embedding_size=4)).spec
    answers = AugmentedRunner(SecondViewBroken(vectors, value), "flip").infer(IMAGES)["embedding"]
    assert np.array_equal(answers[0], np.full(4, value, np.float32), equal_nan=True)
    assert (answers[1:] == 0.5).all()


def test_command_tells_the_augmented_answer(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.png" for number in range(len(IMAGES))]
    for path, image in zip(pictures, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    plain = json.loads(command("client", "infer", *pictures, "--from", checkpoint, "--json").stdout)
    augmented = command("client", "infer", *pictures, "--from", checkpoint, "--tta", "flips", "--json")
    assert augmented.exit_code == 0, augmented.stderr
    rows = json.loads(augmented.stdout)["rows"]
    assert [row["path"] for row in rows] == [row["path"] for row in plain["rows"]]
    assert [row["probability"] for row in rows] != [row["probability"] for row in plain["rows"]]
    refused = command("client", "infer", *pictures, "--from", checkpoint, "--tta", "spin")
    assert refused.exit_code == 2
    assert "spin" in refused.stderr
    assert "flip, flips" in refused.stderr
