"""Answer many pictures: decoded in parallel, sent in batches, several batches in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from client.picture import Picture
from model.preprocess import Geometry, ImageArray, ImageError
from model.runners.base import Runner
from model.tasks import Answer, Task


@dataclass(frozen=True)
class Row:
    """What became of one picture: an answer, or the reason why there is none."""

    name: str
    """The picture's."""
    answer: Answer | None = None
    error: str | None = None
    thumbnail: str | None = None
    """A data URL, where a contact sheet is to show the picture."""

    def as_json(self) -> dict[str, Any]:
        """The row as it is told: the path, and what was answered or why nothing was."""
        said = {"error": self.error} if self.answer is None else self.answer.told
        return {"path": self.name, **said}


Finish: TypeAlias = Callable[[Picture, Answer], Row]
"""Makes the row of an answered picture while its mask is at hand; called from several threads."""


@dataclass(frozen=True)
class Pace:
    """How much is done at once."""

    batch: int = 16
    in_flight: int = 4
    workers: int = 4
    """Threads that decode pictures and finish answers."""


def plain_row(picture: Picture, answer: Answer) -> Row:
    """The answer, and nothing done with it."""
    return Row(picture.name, answer)


def infer_pictures(
    runner: Runner, task: Task, pictures: Iterable[Picture], top: int, pace: Pace, finish: Finish = plain_row
) -> Iterator[Row]:
    """Rows in the order of `pictures`, as they come. A picture that cannot be read is a row with an error.

    pictures: taken as they are needed, a few batches ahead.
    task: the runner's, perhaps with another threshold. finish: many rows wait for those before them, so it should drop
    what is large.
    Raises InferenceError when the model's host fails, and what `pictures` and `finish` raise.
    """
    with (
        ThreadPoolExecutor(pace.workers, "picture") as workers,
        ThreadPoolExecutor(pace.in_flight, "send") as senders,
    ):
        job = _Job(runner, task, top, finish, workers)
        pending: deque[Future[list[Row]]] = deque()
        coming = iter(pictures)
        try:
            while chunk := list(islice(coming, pace.batch)):
                images = [workers.submit(picture.load, runner.spec.preprocess) for picture in chunk]
                pending.append(senders.submit(job.rows, chunk, images))
                # As many again are being decoded while those in flight are answered.
                if len(pending) >= 2 * pace.in_flight:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
            senders.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Job:
    """What is the same for all batches."""

    runner: Runner
    task: Task
    top: int
    finish: Finish
    workers: Executor

    def rows(self, pictures: Sequence[Picture], images: Sequence[Future[tuple[ImageArray, Geometry]]]) -> list[Row]:
        """Answer one batch, in the thread of a sender."""
        rows: dict[str, Row | Future[Row]] = {}
        readable: list[tuple[Picture, ImageArray, Geometry]] = []
        for picture, image in zip(pictures, images, strict=True):
            try:
                readable.append((picture, *image.result()))
            except ImageError as error:
                rows[picture.name] = Row(picture.name, error=str(error))
        outputs = self.runner.infer(np.stack([pixels for _, pixels, _ in readable])) if readable else {}
        for number, (picture, _, geometry) in enumerate(readable):
            own = {name: array[number] for name, array in outputs.items()}
            rows[picture.name] = self.workers.submit(self._row, picture, own, geometry)
        return [row if isinstance(row := rows[picture.name], Row) else row.result() for picture in pictures]

    def _row(self, picture: Picture, output: dict[str, NDArray[Any]], geometry: Geometry) -> Row:
        return self.finish(picture, self.task.answer(output, geometry, self.top))
