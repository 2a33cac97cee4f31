"""The images that a run writes: training batches, curves, confusion matrices, and answers of the best epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.utils.data import DataLoader

from train.engine.history import History
from train.engine.plan import TrainingPlan
from train.engine.publish import select_golden_samples
from train.engine.run_folder import RunFolder
from train.reports.confusion import write_confusion_image
from train.reports.overlays import class_overlay, model_input_geometry, side_by_side
from train.reports.plots import draw_curves
from train.reports.sheets import INK, RIGHT, WRONG, SheetCell, write_sheet
from tritonkit.evaluation.evaluate import AnsweredBatch
from tritonkit.evaluation.tasks.base import BatchTargets
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix, add_matrices
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.spec import Outputs
from tritonkit.system.console import warn
from tritonkit.tasks import task_of
from tritonkit.tasks.segmentation import IGNORED

MAX_CELLS = 32
_REDRAW_INTERVAL_S = 30.0
"""Shortest time between two drawings of the curves."""


@contextmanager
def warn_if_drawing_fails(path: Path) -> Iterator[None]:
    """Turn any error while drawing into a warning, so that the training continues."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a drawing must not stop a long training
        warn(f"{path}: not drawn: {type(error).__name__}: {error}")


def draw_batches(plan: TrainingPlan, run: RunFolder, loader: DataLoader[Any]) -> None:
    """Draw the first images of the next epoch as the network gets them, with their truths."""
    with warn_if_drawing_fails(run.batches):
        pictures: Any = loader.dataset
        cells = [
            SheetCell(_draw_image(plan, *pictures[index]), plan.task.describe_truth(pictures.samples[index[1]].truth))
            for index in islice(loader.sampler, MAX_CELLS)
        ]
        subtitle = f"the first {len(cells)} of {len(pictures)} training images as the network gets them"
        write_sheet(run.batches, cells, f"{plan.config.name}: training images", subtitle)


def _draw_image(plan: TrainingPlan, image: Any, target: Any) -> Image.Image:
    pixels = np.asarray(image)
    return class_overlay(pixels, np.asarray(target)) if plan.task.dense else Image.fromarray(pixels)


class CurvesCallback(Callback):
    """Draws `curves.png` at intervals during a run, and at its end."""

    def __init__(self, plan: TrainingPlan, run: RunFolder, history: History) -> None:
        self._path, self._history, self._monitor = run.curves, history, f"val_{plan.task.monitor}"
        self._title = f"{plan.config.name}, run {run.path.name}"
        self._last_drawn = float("-inf")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() >= self._last_drawn + _REDRAW_INTERVAL_S:
            self._draw()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._history.rows:
            with warn_if_drawing_fails(self._path):
                draw_curves(self._path, self._history.rows, self._monitor, self._title)
        self._last_drawn = time.monotonic()


class ConfusionCounter:
    """Counts confusion matrices over the validation images."""

    def __init__(self, plan: TrainingPlan, run: RunFolder) -> None:
        self._plan, self._run = plan, run
        self.matrices: dict[str, ConfusionMatrix] = {}
        """By head."""

    def add(self, batch: AnsweredBatch) -> None:
        """Add a batch of answers."""
        self.count(batch.outputs, batch.targets)

    def count(self, outputs: Outputs, batch_targets: BatchTargets) -> None:
        """Add answers and their collated targets."""
        with warn_if_drawing_fails(self._run.confusion("")):
            targets = self._plan.task.golden_targets(batch_targets)
            add_matrices(self.matrices, self._plan.task.confusion(outputs, targets, self._plan.splits.task_spec))

    def draw(self) -> None:
        """Draw `confusion.png`, or one matrix for each head that has classes."""
        for head, confusion in self.matrices.items():
            path = self._run.confusion(head)
            with warn_if_drawing_fails(path):
                title = f"{self._plan.config.name}, {head}" if head else self._plan.config.name
                write_confusion_image(path, confusion, f"{title}: best epoch, validation")


def draw_predictions(plan: TrainingPlan, run: RunFolder) -> None:
    """Draw the golden images with the best epoch's answers and the truths."""
    with warn_if_drawing_fails(run.predictions):
        golden = Golden.load(run.path / GOLDEN_FILE)
        cells = _answered_cells(plan, golden)
        legend = "left: truth, right: answer" if plan.task.dense else "green: correct, red: wrong"
        subtitle = f"{len(cells)} of {len(plan.splits.val)} validation images · {legend}"
        write_sheet(run.predictions, cells, f"{plan.config.name}: answers of the best epoch", subtitle)


def _answered_cells(plan: TrainingPlan, golden: Golden) -> list[SheetCell]:
    task, spec, geometry = plan.task, plan.network.spec, model_input_geometry(plan.network.spec.preprocess)
    samples = select_golden_samples(plan.splits.val, task)
    truths = [task.describe_truth(sample.truth) for sample in samples]
    answers = task.describe_answers(golden.outputs, golden.targets, spec, samples, geometry)
    error_scores = task.error_score(golden.outputs, golden.targets, spec)
    cells = []
    for number, image in enumerate(golden.images):
        output = {name: array[number] for name, array in golden.outputs.items()}
        answer = task_of(spec).answer(output, geometry, top=1).mask
        colour = INK if task.dense else WRONG if error_scores[number] > 0 else RIGHT
        picture = Image.fromarray(image)
        if answer is not None:
            truth = task.target(samples[number].truth, False, spec.preprocess, spec)
            picture = side_by_side(
                class_overlay(image, truth), class_overlay(image, np.where(truth == IGNORED, truth, answer))
            )
        cells.append(SheetCell(picture, answers[number], f"truth: {truths[number]}", colour))
    return cells
