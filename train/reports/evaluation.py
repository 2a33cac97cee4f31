"""The evaluation of a run's best network on the test part, kept so that the report of the run needs no inference."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError

from train.reports.intervals import Interval, IntervalEstimator
from train.reports.mistakes import MistakeCollector
from tritonkit.errors import DataError
from tritonkit.evaluation.evaluate import AnsweredBatch, MetricValues
from tritonkit.evaluation.labelled_images import known_labels
from tritonkit.evaluation.tasks import EvaluationTask
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix, add_matrices
from tritonkit.pages.contact_sheet import ContactSheetTile
from tritonkit.spec import Frozen, ModelSpec
from tritonkit.system.console import warn
from tritonkit.system.files import atomic_write

MAX_TILES = 24
_LIBRARIES = ("tritonkit", "torch", "lightning", "timm")


class ConfusionCounts(Frozen):
    """A confusion matrix without its zeros."""

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    unit: str
    """The unit of the counts: images or pixels."""
    cells: tuple[tuple[int, int, int], ...]
    """Row of the truth, column of the answer, and count."""


class RunEvaluation(Frozen):
    """The answers of the best network on the images of one part, in figures."""

    part: Literal["test", "val"]
    """val if there is no test part."""
    images: int
    monitor: str
    """The metric that selected the best epoch."""
    metrics: dict[str, float | None]
    """None for a metric that cannot be measured."""
    intervals: dict[str, Interval]
    counts: dict[str, tuple[int, int]]
    """For each metric that is a share of the images: the number of correct images, and of all that count."""
    mistakes: int
    """Number of images with an answer that differs from the truth."""
    worst: tuple[ContactSheetTile, ...]
    """The worst of these mistakes, the worst first."""
    labels: dict[str, int]
    """Number of images of each label; `HEAD=LABEL` for a model with several heads."""
    confusion: dict[str, ConfusionCounts]
    """By head; under an empty name for a model with one head."""
    finished: datetime
    elapsed_s: float | None = None
    """Time since the run was started, with the pauses of a resumed run."""
    environment: dict[str, str] = {}
    """The machine and the versions of the libraries."""

    @classmethod
    def read(cls, path: Path) -> RunEvaluation | None:
        """Read the file of a run; None if it is missing. Raises DataError if it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not written by this version of tritonkit"
            raise DataError(
                f"{path}: cannot be read ({reason}); delete it, and the report shows the run without it",
                code="run.broken_evaluation",
            ) from error


class EvaluationCollector:
    """Collects the answers of one part. A failure is a warning: it must not end a long training."""

    def __init__(
        self, task: EvaluationTask, spec: ModelSpec, part: Literal["test", "val"], path: Path, started: datetime | None
    ) -> None:
        """path: the file to write. started: when the run was started."""
        self.part = part
        self._task, self._spec, self._path, self._started = task, spec, path, started
        self._intervals, self._mistakes = IntervalEstimator(task, spec), MistakeCollector(task, spec)
        self._confusion: dict[str, ConfusionMatrix] = {}
        self._labels: Counter[str] = Counter()
        self._has_failed = False

    def add(self, batch: AnsweredBatch) -> None:
        """Add a batch of answers."""
        self._warn_on_error(lambda: self._add(batch))

    def save(self, metrics: MetricValues) -> None:
        """Write the evaluation. metrics: as measured on the same batches."""
        self._warn_on_error(lambda: self._save(metrics))

    def _warn_on_error(self, step: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a report must not stop a long training
            self._has_failed = True
            with suppress(OSError):
                self._path.unlink()  # of an earlier evaluation
            warn(f"{self._path}: not written, the report will lack it: {type(error).__name__}: {error}")

    def _add(self, batch: AnsweredBatch) -> None:
        targets = self._task.golden_targets(batch.targets)
        self._intervals.add(batch.outputs, targets)
        self._mistakes.add(batch)
        self._labels.update(
            label for sample in batch.samples if not sample.gallery for label in self._task.classes(sample.truth)
        )
        add_matrices(self._confusion, self._task.confusion(batch.outputs, targets, self._spec))

    def _save(self, metrics: MetricValues) -> None:
        known = set(known_labels(self._spec))
        mistakes, now = self._mistakes.summary(MAX_TILES), datetime.now(UTC)
        evaluation = RunEvaluation(
            part=self.part,
            images=mistakes.images,
            monitor=self._task.monitor,
            metrics=metrics,
            intervals=self._intervals.estimate(metrics),
            counts=self._intervals.counts(),
            mistakes=mistakes.wrong,
            worst=tuple(tile.model_copy(update={"name": _short(tile.name)}) for tile in mistakes.tiles),
            labels={label: count for label, count in self._labels.items() if label in known},
            confusion={head: _without_zeros(matrix) for head, matrix in self._confusion.items()},
            finished=now,
            elapsed_s=None if self._started is None else (now - self._started).total_seconds(),
            environment=_environment(),
        )
        with atomic_write(self._path) as temporary:
            temporary.write_text(evaluation.model_dump_json(indent=1), encoding="utf-8")


def _short(name: str) -> str:
    """The end of a tile's name: the file in its folder."""
    return "/".join(Path(name.partition(" · ")[0]).parts[-2:])


def _environment() -> dict[str, str]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": ", ".join(gpus) or f"CPU, {platform.machine()}, {cores} cores",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def _without_zeros(matrix: ConfusionMatrix) -> ConfusionCounts:
    places = [(int(row), int(column)) for row, column in zip(*matrix.counts.nonzero(), strict=True)]
    cells = [(row, column, int(matrix.counts[row, column])) for row, column in places]
    return ConfusionCounts(truths=matrix.truths, answers=matrix.answers, unit=matrix.unit, cells=tuple(cells))
