"""Many images with little memory, and at the speed of the runner."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.concurrency import AdaptiveConcurrency
from client.infer import InferenceSettings, Row, infer_pictures
from client.picture import Picture
from tests.fixture_types import Command
from tritonkit.errors import InferenceError
from tritonkit.images.pixel_budget import PixelBudget
from tritonkit.images.preprocess import Geometry, ImageArray, ImageError, Preprocess
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec, Outputs, image_input
from tritonkit.tasks import Answer, task_of
from tritonkit.tasks.multiclass import Multiclass

SIDE = 224
MANY = 3000
MIB = 2**20


class MeanRunner(Runner):
    """Answers with the mean level of each image, and records its batches."""

    max_batch = 16

    def __init__(self, spec: ModelSpec, failing_batch: int = -1, side: int = SIDE) -> None:
        how = Preprocess(height=side, width=side)
        self.spec = spec.model_copy(update={"preprocess": how, "input": image_input(how)})
        self.origin = "a stand-in"
        self.batches: list[int] = []
        self.concurrent = self.max_concurrent = 0
        self._fails_at = failing_batch
        self._lock = threading.Lock()

    def _infer(self, batch: ImageArray) -> Outputs:
        with self._lock:
            self.batches.append(len(batch))
            self.concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self.concurrent)
            if len(self.batches) == self._fails_at:
                raise InferenceError("the server is gone")
        level = batch.reshape(len(batch), -1).mean(axis=1) / 255
        with self._lock:
            self.concurrent -= 1
        return {"probabilities": np.stack([level, 1 - level, 0 * level], axis=1).astype(np.float32)}


class CountedTask(Multiclass):
    """Counts its answers."""

    count = 0
    lock = threading.Lock()

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        with self.lock:
            self.count += 1
        return super().answer(output, geometry, top)


class Pictures:
    """A stream of pictures with changing grey levels; it counts the pictures taken from it."""

    def __init__(self, count: int, damaged: frozenset[int] = frozenset()) -> None:
        self.taken = 0
        self._count, self._damaged = count, damaged
        self._levels = [Image.new("RGB", (SIDE, SIDE), (level, level, level)) for level in range(0, 256, 16)]

    def _content(self, number: int) -> Image.Image:
        if number in self._damaged:
            raise ImageError("the file is empty")
        return self._levels[number % len(self._levels)]

    def __iter__(self) -> Iterator[Picture]:
        for number in range(self._count):
            self.taken += 1
            yield Picture(f"{number}.png", PurePath(f"{number}.png"), lambda number=number: self._content(number))


def test_memory_stays_and_the_first_row_comes_early_when_pictures_are_many(spec: ModelSpec) -> None:
    runner, pictures = MeanRunner(spec), Pictures(MANY)
    task = task_of(runner.spec)
    taken_at_first, memory_bytes = 0, list[int]()
    for number, row in enumerate(infer_pictures(runner, task, pictures, 1, InferenceSettings())):
        assert row.name == f"{number}.png"
        if number == 0:
            taken_at_first = pictures.taken
        if number % 250 == 0:
            memory_bytes.append(psutil.Process().memory_info().rss)
    assert number == MANY - 1
    assert taken_at_first < MANY / 4
    assert max(memory_bytes) - memory_bytes[0] < 220 * MIB  # all of them are 430 MiB once decoded
    assert sum(runner.batches) == MANY


def test_answers_are_those_of_the_right_pictures_when_some_cannot_be_read(spec: ModelSpec) -> None:
    runner, damaged = MeanRunner(spec), frozenset({0, 3, 31, *range(48, 64), 99})
    rows = list(infer_pictures(runner, task_of(runner.spec), Pictures(100, damaged), 3, InferenceSettings(batch=16)))
    assert {number for number, row in enumerate(rows) if row.error} == damaged
    for number, row in enumerate(rows):
        if row.answer:
            chances = {entry["label"]: entry["probability"] for entry in row.answer.fields["top"]}
            assert chances["cat"] == pytest.approx(number % 16 * 16 / 255, abs=1e-4)
    assert sum(runner.batches) == 100 - len(damaged)


@pytest.mark.parametrize("limit", [1, 3])
def test_requests_in_flight_do_not_exceed_the_limit(spec: ModelSpec, limit: int) -> None:
    runner = MeanRunner(spec)
    rows = list(
        infer_pictures(
            runner,
            task_of(runner.spec),
            Pictures(200),
            1,
            InferenceSettings(batch=4, in_flight=AdaptiveConcurrency(limit)),
        )
    )
    assert len(rows) == 200
    assert runner.max_concurrent <= limit


def test_error_is_raised_and_nothing_more_is_sent_when_the_host_fails(spec: ModelSpec) -> None:
    runner, pictures = MeanRunner(spec, failing_batch=3), Pictures(MANY)
    rows = infer_pictures(
        runner, task_of(runner.spec), pictures, 1, InferenceSettings(in_flight=AdaptiveConcurrency(1))
    )
    with pytest.raises(InferenceError, match="the server is gone"):
        list(rows)
    assert pictures.taken < MANY
    assert len(runner.batches) < 8


def test_few_answers_are_made_ahead_when_rows_keep_them_whole(spec: ModelSpec) -> None:
    runner, pictures, task = MeanRunner(spec), Pictures(500), CountedTask(spec)
    rows = infer_pictures(runner, task, pictures, 1, InferenceSettings(workers=3))
    first = next(rows)
    while sum(runner.batches) < pictures.taken:
        threading.Event().wait(0.01)
    more_rows = [next(rows) for _ in range(20)]
    rows.close()
    assert [row.name for row in (first, *more_rows)] == [f"{number}.png" for number in range(21)]
    assert sum(runner.batches) > 100
    assert task.count <= 21 + 3


def test_rows_before_a_failed_batch_are_not_lost_when_they_were_answered(spec: ModelSpec) -> None:
    in_order = InferenceSettings(batch=4, workers=1, in_flight=AdaptiveConcurrency(1))
    rows = infer_pictures(MeanRunner(spec, failing_batch=3), CountedTask(spec), Pictures(100), 1, in_order)
    pictures = list[str]()
    with pytest.raises(InferenceError, match="the server is gone"):
        pictures.extend(row.name for row in rows)
    assert len(pictures) == 8


def test_batches_are_smaller_when_the_model_takes_large_images(spec: ModelSpec) -> None:
    runner, pictures = MeanRunner(spec, side=2048), Pictures(24)
    rows = infer_pictures(runner, task_of(runner.spec), pictures, 1, InferenceSettings(batch=16))
    next(rows)
    assert pictures.taken <= 10
    assert len(list(rows)) == 23
    assert max(runner.batches) == 5  # 63 MiB, while the same amount is being decoded


def test_no_thread_is_left_when_the_rows_are_closed_early(spec: ModelSpec) -> None:
    runner = MeanRunner(spec)
    rows = infer_pictures(runner, task_of(runner.spec), Pictures(MANY), 1, InferenceSettings())
    next(rows)
    rows.close()
    assert sum(runner.batches) < MANY
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("send", "decode", "finish"))]


def test_many_small_files_are_all_answered_by_triton(
    command: Command, served: str, digits: Path, tmp_path: Path
) -> None:
    source = next(digits.rglob("*.png"))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        shutil.copy(source, folder / f"{number:03}.png")
    output = tmp_path / "answers.jsonl"
    result = command(
        "client", "infer", folder, "--model", "resnet18", "--url", served, "--output", output, "--batch", 4
    )
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == [f"{number:03}.png" for number in range(40)]
    assert len({row["label"] for row in rows}) == 1


def test_large_pictures_wait_for_each_other_while_they_are_decoded_and_drawn(spec: ModelSpec, photos: Path) -> None:
    runner, lock = MeanRunner(spec), threading.Lock()
    concurrent_counts, pixel_counts = [0, 0], list[int]()
    only = PixelBudget(1)

    @contextmanager
    def pixel_budget(pixels: int) -> Iterator[None]:
        with only(pixels):
            with lock:
                pixel_counts.append(pixels)
                concurrent_counts[0] += 1
                concurrent_counts[1] = max(concurrent_counts)
            yield
            with lock:
                concurrent_counts[0] -= 1

    data = (photos / "cat.jpg").read_bytes()
    pictures = [Picture(f"{number}.jpg", PurePath(f"{number}.jpg"), lambda: data) for number in range(8)]
    drawn = infer_pictures(
        runner,
        task_of(runner.spec),
        pictures,
        1,
        InferenceSettings(batch=4, workers=4, pixel_budget=pixel_budget),
        lambda picture, answer: Row(picture.name, answer, thumbnail=str(picture.decode().size)),
    )
    assert [row.name for row in drawn] == [picture.name for picture in pictures]
    assert (concurrent_counts[1], len(pixel_counts)) == (1, 2 * len(pictures))
