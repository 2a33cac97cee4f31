"""The client for Python: pictures in, typed results out, by the same way as `client infer`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from client.connection import with_infer_defaults
from client.given import Input, picture_given
from client.infer import InferenceSettings, Row, infer_pictures
from client.opening import check_threshold, open_runner, task_with
from client.results import Result, result_of
from model.connection import Connection
from model.console import DEFAULT_URL
from model.errors import InferenceError, InputError
from model.preprocess import ImageError
from model.process import OwnProcess
from model.runners import Runner
from model.runners.augmented import augmented
from model.spec import ModelSpec

_ASKING_AT_ONCE = 16
"""Threads that wait for single answers; Triton makes batches of what they ask."""


class Client:
    """A model to ask. Safe to use from several threads; `close` it, or use it in a `with` block.

    It belongs to the process that opened it: after a fork (`multiprocessing`, a DataLoader's workers, gunicorn's
    `--preload`) each process opens its own. Every method raises InputError in another process and after `close`.
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
        """Open a model of a running Triton.

        model: its name; None is the only one there. url: its gRPC port, HOST:PORT, or with TLS, deadlines and patience
        a `model.connection.Connection`; what that leaves out is as for `client infer`: a request is repeated for 60 s
        while the server is away. Tokens come from the environment.
        version: empty for the server's choice, also when it loads another later: one with other labels or
        preprocessing is an InferenceError.
        top: how many of the best labels are told. threshold: in place of the model's own.
        tta: test-time augmentation, `flip` or `flips`. pace: how much a stream does at once.
        Raises InputError, ArtifactError, InferenceError, SpecError.
        """
        pace = pace or InferenceSettings()
        runner = open_runner(None, with_infer_defaults(url), model, version, pace.in_flight.failed)
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
        """Open a checkpoint, an ONNX file or any other artifact in this process. Raises as the constructor does."""
        client = cls.__new__(cls)
        client._open(open_runner(Path(path), "", None, ""), top, threshold, tta, pace or InferenceSettings())
        return client

    def _open(
        self, runner: Runner, top: int, threshold: float | None, tta: str | None, pace: InferenceSettings
    ) -> None:
        try:
            check_threshold(threshold)
            self._runner = augmented(runner, tta)
            self._task = task_with(runner, threshold)
        except BaseException:
            runner.close()
            raise
        self._top = top
        self._pace = replace(pace, batch=min(pace.batch, runner.max_batch or pace.batch))
        self._threads = ThreadPoolExecutor(_ASKING_AT_ONCE, "ask")
        self._process = OwnProcess(f"the client of {runner.origin}")
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """What the model takes and gives: labels, preprocessing, outputs."""
        return self._runner.spec

    @property
    def origin(self) -> str:
        """The address or file that answers."""
        return self._runner.origin

    def infer(self, picture: Input) -> Result:
        """Answer one picture.

        Raises ImageError when it cannot be read, InferenceError when the server fails, and AnswerError when the
        answer means nothing, such as NaN.
        """
        self._check_usable()
        given = picture_given(picture, 0)
        try:
            pixels, geometry = given.load(self.spec.preprocess, self._pace.room)
        except ImageError as error:
            raise ImageError(f"{given.name}: {error}") from error
        output = {name: array[0] for name, array in self._runner.infer(pixels[None]).items()}
        return result_of(Row(given.name, self._task.checked_answer(output, geometry, self._top)), self.spec)

    def infer_many(self, pictures: Iterable[Input]) -> list[Result]:
        """Answer pictures, in their order; one that has no answer has a `Failed` in its place."""
        return list(self.stream(pictures))

    def stream(self, pictures: Iterable[Input]) -> Generator[Result]:
        """Answer pictures as they come, in their order, with several requests in flight.

        One that cannot be read, or whose answer means nothing, gives a `Failed`. `pictures` is read a few batches
        ahead. Raises InferenceError.
        """
        self._check_usable()
        named = (picture_given(given, number) for number, given in zip(count(), pictures))
        rows = infer_pictures(self._runner, self._task, named, self._top, self._pace)
        try:
            while (row := next(rows, None)) is not None:
                yield result_of(row, self.spec)
                self._process.check_current()  # a stream can cross a fork between two rows
        except InferenceError:
            self._check_usable()  # a server seems to be away when the client was closed meanwhile
            raise

    async def infer_async(self, picture: Input) -> Result:
        """`infer`, without holding up the event loop; what is awaited together is answered together."""
        self._check_usable()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.infer, picture)

    async def stream_async(self, pictures: Iterable[Input]) -> AsyncIterator[Result]:
        """`stream`, without holding up the event loop."""
        self._check_usable()
        results = self.stream(pictures)
        taken: Future[Result | None] | None = None
        try:
            while True:
                self._check_usable()
                taken = self._threads.submit(next, results, None)
                if (result := await asyncio.wrap_future(taken)) is None:
                    return
                yield result
        finally:
            # Cancelling does not end the thread that takes the next one. In a thread of the loop's: that a reader
            # breaks off is noticed late, when the client may be closed.
            await asyncio.get_running_loop().run_in_executor(None, _end, results, taken)

    def close(self) -> None:
        """Let go of the model. In a forked process, the client of its parent is left as it is."""
        if not self._process.is_current():
            return
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._runner.close()

    def _check_usable(self) -> None:
        self._process.check_current()
        if self._closed:
            raise InputError(f"the client of {self.origin} is closed; open another one")

    def __getstate__(self) -> object:
        raise InputError(f"the client of {self.origin} cannot be pickled; open one in the process that uses it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(results: Generator[Result], taken: Future[Result | None] | None) -> None:
    """Close a stream when the result that is being taken has come."""
    if taken:
        with suppress(CancelledError):  # `wait` would wait for ever for one that closing the client has cancelled
            taken.exception()
    results.close()
