"""Answer many pictures: decoded in parallel, sent in batches, several batches in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.preprocess import ImageArray, ImageError, load_file
from model.runners.base import Runner
from model.tasks import Answer, Task, task_of


@dataclass(frozen=True)
class Row:
    """What became of one picture: an answer, or the reason why there is none."""

    path: Path
    answer: Answer | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as `--output` writes it."""
        # A file name need not be valid Unicode; JSON must be.
        path = str(self.path).encode("utf-8", "backslashreplace").decode("utf-8")
        return {"path": path, **self.answer} if self.answer is not None else {"path": path, "error": self.error}


@dataclass(frozen=True)
class Pace:
    """How much is done at once."""

    batch: int = 16
    in_flight: int = 4
    decoders: int = 4


def infer_files(runner: Runner, paths: Sequence[Path], top: int, pace: Pace) -> Iterator[Row]:
    """Rows in the order of `paths`, as they come. A picture that cannot be read is a row with an error.

    Raises InferenceError when the model's host fails.
    """
    task = task_of(runner.spec)
    with (
        ThreadPoolExecutor(pace.decoders, "decode") as decoders,
        ThreadPoolExecutor(pace.in_flight, "send") as senders,
    ):
        pending: deque[Future[list[Row]]] = deque()
        try:
            for start in range(0, len(paths), pace.batch):
                chunk = paths[start : start + pace.batch]
                images = [decoders.submit(load_file, path, runner.spec.preprocess) for path in chunk]
                pending.append(senders.submit(_answer, runner, task, chunk, images, top))
                # As many again are being decoded while those in flight are answered.
                if len(pending) >= 2 * pace.in_flight:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
            senders.shutdown(wait=False, cancel_futures=True)


def _answer(
    runner: Runner, task: Task, paths: Sequence[Path], images: Sequence[Future[tuple[ImageArray, Any]]], top: int
) -> list[Row]:
    rows: list[Row | None] = []
    readable: list[ImageArray] = []
    for path, image in zip(paths, images, strict=True):
        try:
            readable.append(image.result()[0])
            rows.append(None)
        except ImageError as error:
            rows.append(Row(path, error=str(error)))
    outputs = runner.infer(np.stack(readable)) if readable else {}
    answers = (
        task.answer({name: array[i] for name, array in outputs.items()}, runner.spec.labels, top)
        for i in range(len(readable))
    )
    return [row or Row(path, answer=next(answers)) for path, row in zip(paths, rows, strict=True)]
