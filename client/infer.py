"""Answer many images: decode in parallel, send batches, keep several batches in flight.

Threads decode, not processes, because Pillow releases Python's lock for most of the work. Of a JPEG of 500 x 400
pixels, 2.3 of 2.7 ms run without the lock, so about seven cores can decode in one process. On two cores, two
processes took 3.0 ms of CPU time for an image, because the pixels must be copied back; threads took 2.5 ms and
finished sooner.
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

from client.concurrency import AdaptiveConcurrency
from client.picture import Picture
from client.request_senders import Senders
from tritonkit.errors import AnswerError
from tritonkit.images.pixel_budget import PixelBudget
from tritonkit.images.preprocess import MAX_PIXELS, Geometry, ImageArray, ImageError, Room
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs
from tritonkit.tasks import Answer, Task

_MAX_PENDING_BYTES = 128 * 2**20
"""Limit for decoded images that wait for an answer."""
_ENCODED_BYTES = 8 * 2**20
"""Size of an image file, for that limit."""


@dataclass(frozen=True)
class Row:
    """The result for one image: an answer, or an error."""

    name: str
    """Name of the image."""
    answer: Answer | None = None
    error: str | None = None
    thumbnail: str | None = None
    """A data URL, for images that a contact sheet shows."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the row: the path, and the answer or the error."""
        fields = {"error": self.error} if self.answer is None else self.answer.fields
        return {"path": self.name, **fields}


FinishRow: TypeAlias = Callable[[Picture, Answer], Row]
"""Makes the row of an answered image while its mask is in memory. Called from several threads."""


def _default_threads() -> int:
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) + 2


@dataclass(frozen=True)
class InferenceSettings:
    """Batch size and concurrency of inference."""

    batch: int = 16
    in_flight: AdaptiveConcurrency = field(default_factory=AdaptiveConcurrency)
    """Concurrent requests. Pass its `record_failure` to `TritonClient`, so that it adapts to the server's load."""
    workers: int = field(default_factory=_default_threads)
    """Threads that decode images; the same number of threads finishes answers."""
    pixel_budget: Room = field(default_factory=lambda: PixelBudget.for_threads(_default_threads(), minimum=MAX_PIXELS))
    """Limits the pixels in memory. All threads share it, because a few large images could take all memory."""


def plain_row(picture: Picture, answer: Answer) -> Row:
    """Return the answer as a row, unchanged."""
    return Row(picture.name, answer)


def infer_pictures(
    runner: Runner,
    task: Task,
    pictures: Iterable[Picture],
    top: int,
    settings: InferenceSettings,
    finish: FinishRow = plain_row,
) -> Iterator[Row]:
    """Yield rows in the order of `pictures`. An image that cannot be read or answered gives a row with an error.

    pictures: read a few batches ahead.
    task: the runner's task, possibly with another threshold. finish: should drop large data, because many rows wait for
    earlier rows; `plain_row` keeps all data, so only few of its rows are made ahead. settings: the batch is reduced if
    the model's images are large.
    Raises InferenceError if the server or the artifact fails, and whatever `pictures` and `finish` raise.
    """
    is_pipeline = runner.spec.pipeline is not None
    image_bytes = _ENCODED_BYTES if is_pipeline else math.prod(runner.spec.input.shape)
    batch_size = 1 if is_pipeline else max(1, min(settings.batch, _MAX_PENDING_BYTES // (2 * image_bytes)))
    max_pending = max(2, _MAX_PENDING_BYTES // (batch_size * image_bytes))
    with (
        Senders(settings.in_flight) as senders,
        ThreadPoolExecutor(settings.workers, "decode") as decoders,
        ThreadPoolExecutor(settings.workers, "finish") as finishers,
    ):
        kind = _EncodedRunner if is_pipeline else _BatchRunner
        batch_runner = kind(runner, task, top, finish, decoders, senders, finishers, settings.pixel_budget)
        pending: deque[Future[list[_PendingRow]]] = deque()
        row_queue = _RowQueue(finishers, settings.workers)
        picture_stream = iter(pictures)
        try:
            while chunk := list(islice(picture_stream, batch_size)):
                pending.append(batch_runner.submit(chunk))
                # While some batches are in flight, the same number is being decoded.
                while len(pending) >= min(max_pending, 2 * settings.in_flight.limit):
                    yield from row_queue.rows_of(pending.popleft())
            while pending:
                yield from row_queue.rows_of(pending.popleft())
            yield from row_queue.remaining()
        except KeyboardInterrupt:
            runner.close()  # so that no sender keeps waiting for a server that is away
            raise
        finally:
            # Close the stream before waiting for threads: some may wait for content that the stream still fetches.
            if isinstance(picture_stream, Generator):
                picture_stream.close()
            senders.stop()
            decoders.shutdown(wait=False, cancel_futures=True)
            finishers.shutdown(wait=False, cancel_futures=True)


_PendingRow: TypeAlias = "Row | Future[Row] | Callable[[], Row]"
"""A row, a row that is being finished, or a call that makes a large row shortly before it is needed."""
_LoadResult: TypeAlias = "Geometry | ImageError"


class _RowQueue:
    """Rows of batches in order. Of large rows, only as many are made ahead as there are threads."""

    def __init__(self, finishers: Executor, max_started: int) -> None:
        self._finishers = finishers
        self._max_started = max_started
        self._started: deque[Row | Future[Row]] = deque()

    def rows_of(self, batch: Future[list[_PendingRow]]) -> Iterator[Row]:
        """Yield the rows of a batch once it is answered, except a few that are still being finished."""
        # Rows that are answered neither wait for this batch nor get lost if it fails.
        if not batch.done() or batch.exception():
            yield from self.remaining()
        for row in batch.result():
            self._started.append(self._finishers.submit(row) if callable(row) else row)
            if len(self._started) > self._max_started:
                yield self._pop()

    def remaining(self) -> Iterator[Row]:
        """Yield the rows that are left."""
        while self._started:
            yield self._pop()

    def _pop(self) -> Row:
        row = self._started.popleft()
        return row if isinstance(row, Row) else row.result()


@dataclass(frozen=True)
class _BatchRunner:
    """Decodes, sends and finishes batches of one job."""

    runner: Runner
    task: Task
    top: int
    finish: FinishRow
    decoders: Executor
    senders: Senders
    finishers: Executor
    pixel_budget: Room

    def submit(self, pictures: Sequence[Picture]) -> Future[list[_PendingRow]]:
        """Decode the images into one batch array, and send the batch when all are decoded."""
        batch = np.empty((len(pictures), *self.runner.spec.input.shape), dtype=np.uint8)
        loading = [
            self.decoders.submit(self._load, picture, slot) for picture, slot in zip(pictures, batch, strict=True)
        ]
        return self.senders.submit_after(loading, len(pictures), partial(self._infer_batch, pictures, batch, loading))

    def _load(self, picture: Picture, slot: ImageArray) -> _LoadResult:
        try:
            slot[...], geometry = picture.load(self.runner.spec.preprocess, self.pixel_budget)
        except ImageError as error:
            return error
        return geometry

    def _infer_batch(
        self, pictures: Sequence[Picture], batch: ImageArray, loading: Sequence[Future[_LoadResult]]
    ) -> list[_PendingRow]:
        """Answer one batch in a sender's thread. The thread does not wait until the rows are finished."""
        load_results = [future.result() for future in loading]
        readable = [number for number, load_result in enumerate(load_results) if isinstance(load_result, Geometry)]
        if len(readable) < len(load_results):
            batch = batch[readable]
        outputs = self.runner.infer(batch) if readable else {}
        output_rows = iter(range(len(readable)))
        rows: list[_PendingRow] = []
        for picture, load_result in zip(pictures, load_results, strict=True):
            if isinstance(load_result, ImageError):
                rows.append(Row(picture.name, error=str(load_result)))
            else:
                number = next(output_rows)
                picture_outputs = {name: array[number] for name, array in outputs.items()}
                row = partial(self._finish_row, picture, picture_outputs, load_result)
                rows.append(row if self.finish is plain_row else self.finishers.submit(row))
        return rows

    def _finish_row(self, picture: Picture, output: dict[str, NDArray[Any]], geometry: Geometry) -> Row:
        try:
            if self.finish is plain_row:
                return plain_row(picture, self.task.checked_answer(output, geometry, self.top))
            with self.pixel_budget(math.prod(geometry.source_size)):  # `finish` may decode it again
                return self.finish(picture, self.task.checked_answer(output, geometry, self.top))
        except AnswerError as error:
            return Row(picture.name, error=str(error))


class _EncodedRunner(_BatchRunner):
    """Sends whole image files to a pipeline, one a request, without decoding them."""

    def submit(self, pictures: Sequence[Picture]) -> Future[list[_PendingRow]]:
        """Read the file, and send it."""
        (picture,) = pictures
        reading = self.decoders.submit(self._read, picture)
        return self.senders.submit_after([reading], 1, lambda: [self._answer(picture, reading.result())])

    @staticmethod
    def _read(picture: Picture) -> bytes | ImageError:
        try:
            return picture.encoded()
        except ImageError as error:
            return error

    def _answer(self, picture: Picture, data: bytes | ImageError) -> _PendingRow:
        try:
            if isinstance(data, ImageError):
                raise data
            output = self.runner.infer_encoded(data)
        except ImageError as error:
            return Row(picture.name, error=str(error))
        row = partial(self._finish_row, picture, output, whole_image(output))
        return row if self.finish is plain_row else self.finishers.submit(row)


def whole_image(output: Outputs) -> Geometry:
    """Return the geometry of a pipeline's answer, whose positions are those of the upright image."""
    width, height = (int(side) for side in output["size"])
    box = (0.0, 0.0, float(width), float(height))
    return Geometry((width, height), box, box)
