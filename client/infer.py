"""Answer many pictures: decoded in parallel, sent in batches, several batches in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Geometry, ImageArray, ImageError, load_file
from model.runners.base import Runner
from model.tasks import Answer, Task


@dataclass(frozen=True)
class Row:
    """What became of one picture: an answer, or the reason why there is none."""

    path: Path
    answer: Answer | None = None
    error: str | None = None
    thumbnail: str | None = None
    """A data URL, where a contact sheet is to show the picture."""

    @property
    def name(self) -> str:
        """The path as text that every file and every terminal can hold."""
        return as_text(self.path)

    def as_json(self) -> dict[str, Any]:
        """The row as it is told: the path, and what was answered or why nothing was."""
        said = {"error": self.error} if self.answer is None else self.answer.told
        return {"path": self.name, **said}


Finish: TypeAlias = Callable[[Row], Row]
"""What is done with each answered row while its mask is at hand; called from several threads."""


@dataclass(frozen=True)
class Pace:
    """How much is done at once."""

    batch: int = 16
    in_flight: int = 4
    workers: int = 4
    """Threads that decode pictures and finish answers."""


def as_text(path: Path) -> str:
    """A path in valid Unicode, which JSON must be and a file name need not."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def infer_files(
    runner: Runner, task: Task, paths: Sequence[Path], top: int, pace: Pace, finish: Finish = lambda row: row
) -> Iterator[Row]:
    """Rows in the order of `paths`, as they come. A picture that cannot be read is a row with an error.

    task: the runner's, perhaps with another threshold. finish: makes the row that is given of an answered one. Many
    rows wait for those before them, so it should drop what is large.
    Raises InferenceError when the model's host fails, and what `finish` raises.
    """
    with (
        ThreadPoolExecutor(pace.workers, "picture") as workers,
        ThreadPoolExecutor(pace.in_flight, "send") as senders,
    ):
        job = _Job(runner, task, top, finish, workers)
        pending: deque[Future[list[Row]]] = deque()
        try:
            for start in range(0, len(paths), pace.batch):
                chunk = paths[start : start + pace.batch]
                images = [workers.submit(load_file, path, runner.spec.preprocess) for path in chunk]
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

    def rows(self, paths: Sequence[Path], images: Sequence[Future[tuple[ImageArray, Geometry]]]) -> list[Row]:
        """Answer one batch, in the thread of a sender."""
        rows: dict[Path, Row | Future[Row]] = {}
        readable: dict[Path, tuple[ImageArray, Geometry]] = {}
        for path, image in zip(paths, images, strict=True):
            try:
                readable[path] = image.result()
            except ImageError as error:
                rows[path] = Row(path, error=str(error))
        outputs = self.runner.infer(np.stack([pixels for pixels, _ in readable.values()])) if readable else {}
        for number, (path, (_, geometry)) in enumerate(readable.items()):
            own = {name: array[number] for name, array in outputs.items()}
            rows[path] = self.workers.submit(self._row, path, own, geometry)
        return [row if isinstance(row := rows[path], Row) else row.result() for path in paths]

    def _row(self, path: Path, output: dict[str, NDArray[Any]], geometry: Geometry) -> Row:
        return self.finish(Row(path, self.task.answer(output, geometry, self.top)))
