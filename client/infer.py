"""Answer many pictures: decoded in parallel, sent in batches, several batches in flight.

Threads decode, not processes: Pillow lets go of Python's lock in nearly all of the work. Of a JPEG of 500 x 400, 2.3 of
2.7 ms are spent without it, so that about seven cores can decode in one process. On two cores, two processes took 3.0
ms of CPU time a picture, for the pixels must come back from them, threads 2.5, and the threads were sooner done.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from client.pace import AdaptiveConcurrency
from client.picture import Picture
from client.sending import Senders
from model.errors import AnswerError
from model.pixel_budget import PixelBudget
from model.preprocess import MAX_PIXELS, Geometry, ImageArray, ImageError, Room
from model.runners.base import Runner
from model.tasks import Answer, Task

_PENDING_BYTES = 128 * 2**20
"""Of decoded pictures that wait to be answered, or are being."""


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
        said = {"error": self.error} if self.answer is None else self.answer.fields
        return {"path": self.name, **said}


Finish: TypeAlias = Callable[[Picture, Answer], Row]
"""Makes the row of an answered picture while its mask is at hand; called from several threads."""


def _decoders() -> int:
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) + 2


@dataclass(frozen=True)
class InferenceSettings:
    """How much is done at once."""

    batch: int = 16
    in_flight: AdaptiveConcurrency = field(default_factory=AdaptiveConcurrency)
    """Requests; give `TritonServer` its `failed`, so that it follows what the server can take."""
    workers: int = field(default_factory=_decoders)
    """Threads that decode pictures, and as many that finish answers."""
    room: Room = field(default_factory=lambda: PixelBudget.for_threads(_decoders(), at_least=MAX_PIXELS))
    """For whole pictures, which decoders and finishers share: a few large ones would take all memory otherwise."""


def plain_row(picture: Picture, answer: Answer) -> Row:
    """The answer, and nothing done with it."""
    return Row(picture.name, answer)


def infer_pictures(
    runner: Runner,
    task: Task,
    pictures: Iterable[Picture],
    top: int,
    pace: InferenceSettings,
    finish: Finish = plain_row,
) -> Iterator[Row]:
    """Rows in the order of `pictures`, as they come. One that cannot be read or answered is a row with an error.

    pictures: taken as they are needed, a few batches ahead.
    task: the runner's, perhaps with another threshold. finish: many rows wait for those before them, so it should drop
    what is large; `plain_row` keeps it, and few such rows are made before they are taken. pace: the batch is smaller
    where the model's images are large.
    Raises InferenceError when the model's host fails, and what `pictures` and `finish` raise.
    """
    image_bytes = math.prod(runner.spec.input.shape)
    size = max(1, min(pace.batch, _PENDING_BYTES // (2 * image_bytes)))
    most = max(2, _PENDING_BYTES // (size * image_bytes))
    with (
        Senders(pace.in_flight) as senders,
        ThreadPoolExecutor(pace.workers, "decode") as decoders,
        ThreadPoolExecutor(pace.workers, "finish") as finishers,
    ):
        job = _Job(runner, task, top, finish, decoders, senders, finishers, pace.room)
        pending: deque[Future[list[_Coming]]] = deque()
        rows = _Rows(finishers, pace.workers)
        coming = iter(pictures)
        try:
            while chunk := list(islice(coming, size)):
                pending.append(job.begin(chunk))
                # As many again are being decoded while those in flight are answered.
                while len(pending) >= min(most, 2 * pace.in_flight.limit):
                    yield from rows.of(pending.popleft())
            while pending:
                yield from rows.of(pending.popleft())
            yield from rows.begun()
        except KeyboardInterrupt:
            runner.close()  # so that no sender waits any longer for a server that is away
            raise
        finally:
            # Before the threads are waited for: some of them may wait for what the stream still fetches.
            if isinstance(coming, Generator):
                coming.close()
            senders.stop()
            decoders.shutdown(wait=False, cancel_futures=True)
            finishers.shutdown(wait=False, cancel_futures=True)


_Coming: TypeAlias = "Row | Future[Row] | Callable[[], Row]"
"""A row; one that is being finished; or one to be finished shortly before it is taken, for it will be large."""
_Loaded: TypeAlias = "Geometry | ImageError"


class _Rows:
    """The rows of batches, in order; of those that are large, no more are made than threads can make at once."""

    def __init__(self, finishers: Executor, ahead: int) -> None:
        self._finishers = finishers
        self._ahead = ahead
        self._begun: deque[Row | Future[Row]] = deque()

    def of(self, batch: Future[list[_Coming]]) -> Iterator[Row]:
        """The rows of a batch when it is answered, but for a few that are still being finished."""
        # What was answered before neither waits for this batch, nor is lost when it fails.
        if not batch.done() or batch.exception():
            yield from self.begun()
        for row in batch.result():
            self._begun.append(self._finishers.submit(row) if callable(row) else row)
            if len(self._begun) > self._ahead:
                yield self._next()

    def begun(self) -> Iterator[Row]:
        """The few that are left."""
        while self._begun:
            yield self._next()

    def _next(self) -> Row:
        row = self._begun.popleft()
        return row if isinstance(row, Row) else row.result()


@dataclass(frozen=True)
class _Job:
    """What is the same for all batches."""

    runner: Runner
    task: Task
    top: int
    finish: Finish
    decoders: Executor
    senders: Senders
    finishers: Executor
    room: Room

    def begin(self, pictures: Sequence[Picture]) -> Future[list[_Coming]]:
        """Decode a batch, each picture right into its place, and send it when all are there."""
        batch = np.empty((len(pictures), *self.runner.spec.input.shape), dtype=np.uint8)
        loaded = [self.decoders.submit(self._load, *one) for one in zip(pictures, batch, strict=True)]
        return self.senders.after(loaded, len(pictures), partial(self._answer, pictures, batch, loaded))

    def _load(self, picture: Picture, place: ImageArray) -> _Loaded:
        try:
            place[...], geometry = picture.load(self.runner.spec.preprocess, self.room)
        except ImageError as error:
            return error
        return geometry

    def _answer(
        self, pictures: Sequence[Picture], batch: ImageArray, loaded: Sequence[Future[_Loaded]]
    ) -> list[_Coming]:
        """Answer one batch, in the thread of a sender, which does not wait for its answers to be finished."""
        found = [one.result() for one in loaded]
        readable = [number for number, one in enumerate(found) if isinstance(one, Geometry)]
        if len(readable) < len(found):
            batch = batch[readable]
        outputs = self.runner.infer(batch) if readable else {}
        answered = iter(range(len(readable)))
        rows: list[_Coming] = []
        for picture, one in zip(pictures, found, strict=True):
            if isinstance(one, ImageError):
                rows.append(Row(picture.name, error=str(one)))
            else:
                number = next(answered)
                own = {name: array[number] for name, array in outputs.items()}
                row = partial(self._row, picture, own, one)
                rows.append(row if self.finish is plain_row else self.finishers.submit(row))
        return rows

    def _row(self, picture: Picture, output: dict[str, NDArray[Any]], geometry: Geometry) -> Row:
        try:
            if self.finish is plain_row:
                return plain_row(picture, self.task.checked_answer(output, geometry, self.top))
            with self.room(math.prod(geometry.source_size)):  # it may decode the picture once more, to draw it
                return self.finish(picture, self.task.checked_answer(output, geometry, self.top))
        except AnswerError as error:
            return Row(picture.name, error=str(error))
