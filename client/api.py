"""The Python client: takes images, returns typed results, and works as `client infer` does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Self

from client.connection import with_infer_defaults
from client.infer import InferenceSettings, Row, infer_pictures, whole_image
from client.inputs import Input, picture_from_input
from client.model_loading import check_threshold, open_runner, task_with_threshold
from client.picture import Picture
from client.results import Result, result_of
from tritonkit.errors import InferenceError, InputError
from tritonkit.images.preprocess import ImageError
from tritonkit.runtimes import Runner
from tritonkit.runtimes.augmented import with_augmentation
from tritonkit.spec import ModelSpec
from tritonkit.system.console import DEFAULT_URL
from tritonkit.system.fork_guard import ProcessGuard
from tritonkit.triton.connection import Connection

_ASYNC_THREADS = 16
"""Threads that wait for single `infer_async` requests. Triton can put such requests into one batch."""


class Client:
    """A model that answers images. Safe to use from several threads. `close` it, or use it in a `with` block.

    A client belongs to the process that opened it. After a fork (`multiprocessing`, DataLoader workers, gunicorn with
    `--preload`) each process must open its own. All methods raise InputError in another process and after `close`.
    """

    def __init__(
        self,
        model: str | None = None,
        url: str | Connection = DEFAULT_URL,
        version: str = "",
        *,
        top: int = 3,
        threshold: float | None = None,
        tta: str | None = None,
        pace: InferenceSettings | None = None,
    ) -> None:
        """Open a model of a running Triton server.

        model: its name. None selects the only model of the server. url: HOST:PORT of the gRPC port, or a
        `tritonkit.triton.connection.Connection` with TLS files, deadline and retry times. Fields that the Connection
        leaves out have the defaults of `client infer`: a request is repeated for 60 s while the server is away. Tokens
        are read from the environment.
        version: empty lets the server choose. If the server later loads another version with other labels or other
        preprocessing, requests raise InferenceError.
        top: number of best labels in a result. threshold: replaces the model's own threshold.
        tta: test-time augmentation, `flip` or `flips`. pace: batch size and concurrency of streams.
        Raises InputError, ArtifactError, InferenceError, SpecError.
        """
        pace = pace or InferenceSettings()
        failures = pace.in_flight.record_failure
        runner = open_runner(None, with_infer_defaults(url), model, version, failures, pipelines=True)
        self._open(runner, top, threshold, tta, pace)

    @classmethod
    def from_artifact(
        cls,
        path: str | os.PathLike[str],
        *,
        top: int = 3,
        threshold: float | None = None,
        tta: str | None = None,
        pace: InferenceSettings | None = None,
    ) -> Self:
        """Open a checkpoint, an ONNX file or another artifact in this process. Raises the errors of the constructor."""
        client = cls.__new__(cls)
        client._open(open_runner(Path(path), "", None, ""), top, threshold, tta, pace or InferenceSettings())
        return client

    def _open(
        self, runner: Runner, top: int, threshold: float | None, tta: str | None, pace: InferenceSettings
    ) -> None:
        try:
            check_threshold(threshold)
            self._runner = with_augmentation(runner, tta)
            self._task = task_with_threshold(runner, threshold)
        except BaseException:
            runner.close()
            raise
        self._top = top
        self._pace = replace(pace, batch=min(pace.batch, runner.max_batch or pace.batch))
        self._threads = ThreadPoolExecutor(_ASYNC_THREADS, "ask")
        self._process = ProcessGuard(f"the client of {runner.origin}")
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """The ModelSpec: labels, preprocessing, input and outputs."""
        return self._runner.spec

    @property
    def origin(self) -> str:
        """The address or the file of the model."""
        return self._runner.origin

    def infer(self, image: Input) -> Result:
        """Answer one image.

        Raises ImageError if the image cannot be read, InferenceError if the server fails, and AnswerError if the answer
        is impossible, such as NaN.
        """
        self._check_open()
        picture = picture_from_input(image, 0)
        try:
            if self.spec.pipeline is not None:
                return self._infer_encoded(picture)
            pixels, geometry = picture.load(self.spec.preprocess, self._pace.pixel_budget)
        except ImageError as error:
            raise ImageError(f"{picture.name}: {error}") from error
        output = {name: array[0] for name, array in self._runner.infer(pixels[None]).items()}
        return result_of(Row(picture.name, self._task.checked_answer(output, geometry, self._top)), self.spec)

    def _infer_encoded(self, picture: Picture) -> Result:
        output = self._runner.infer_encoded(picture.encoded())
        answer = self._task.checked_answer(output, whole_image(output), self._top)
        return result_of(Row(picture.name, answer), self.spec)

    def infer_many(self, images: Iterable[Input]) -> list[Result]:
        """Answer several images, in their order. An image without an answer gives a `Failed`."""
        return list(self.stream(images))

    def stream(self, images: Iterable[Input]) -> Generator[Result]:
        """Yield the results of images in their order, with several requests in flight.

        An image that cannot be read, or whose answer is impossible, gives a `Failed`. `images` is read a few batches
        ahead. Raises InferenceError.
        """
        self._check_open()
        pictures = (picture_from_input(image, index) for index, image in zip(count(), images))
        rows = infer_pictures(self._runner, self._task, pictures, self._top, self._pace)
        try:
            while (row := next(rows, None)) is not None:
                yield result_of(row, self.spec)
                self._process.check_current()  # the process may have been forked between two rows
        except InferenceError:
            self._check_open()  # closing the client looks like a server that is away
            raise

    async def infer_async(self, image: Input) -> Result:
        """Answer one image without blocking the event loop. Requests that are awaited together are sent together."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.infer, image)

    async def stream_async(self, images: Iterable[Input]) -> AsyncIterator[Result]:
        """Yield the results of `stream` without blocking the event loop."""
        self._check_open()
        results = self.stream(images)
        pending: Future[Result | None] | None = None
        try:
            while True:
                self._check_open()
                pending = self._threads.submit(next, results, None)
                if (result := await asyncio.wrap_future(pending)) is None:
                    return
                yield result
        finally:
            # Cancelling does not stop the thread that computes the next result. A thread of the event loop waits for
            # it, because the client may be closed, with its threads, before this runs.
            await asyncio.get_running_loop().run_in_executor(None, _close_stream, results, pending)

    def close(self) -> None:
        """Close the model. In a forked process this does nothing, so that the parent's client keeps working."""
        if not self._process.is_current():
            return
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._runner.close()

    def _check_open(self) -> None:
        self._process.check_current()
        if self._closed:
            raise InputError(f"the client of {self.origin} is closed; open a new one", code="client.closed")

    def __getstate__(self) -> object:
        raise InputError(
            f"the client of {self.origin} cannot be pickled; open a client in the process that uses it",
            code="client.pickled",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _close_stream(results: Generator[Result], pending: Future[Result | None] | None) -> None:
    """Close a stream after its pending result is done."""
    if pending:
        with suppress(CancelledError):  # `wait` would never return for a future that `close` cancelled
            pending.exception()
    results.close()
