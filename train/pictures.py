"""The pictures a run leaves to be looked at: what it learns from, how it goes, and what its best epoch answers."""

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

from model.console import warn
from model.golden import GOLDEN_FILE, Golden
from model.tasks import task_of
from model.tasks.segmentation import IGNORED
from train.history import History
from train.measure import Answered
from train.overlays import as_seen, masked, side_by_side
from train.plan import Plan
from train.plots import draw_confusion, draw_curves
from train.publish import golden_samples
from train.run_folder import RunFolder
from train.sheets import INK, RIGHT, WRONG, Cell, write_sheet
from train.tasks.confusion import Confusion

SHOWN = 32
_EVERY_S = 30.0
"""Curves are not drawn anew more often than this."""


@contextmanager
def spared(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a picture costs the picture, not the training: say so and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a training of days is worth more than any picture
        warn(f"{path}: not drawn: {type(error).__name__}: {error}")


def draw_batches(plan: Plan, run: RunFolder, loader: DataLoader[Any]) -> None:
    """Draw the first pictures of the first epoch as the network gets them, with their truths."""
    with spared(run.batches):
        pictures: Any = loader.dataset
        cells = [
            Cell(_shown(plan, *pictures[drawn]), plan.task.describe_truth(pictures.samples[drawn[1]].truth))
            for drawn in islice(loader.sampler, SHOWN)
        ]
        subtitle = f"the first {len(cells)} of {len(pictures)} training pictures as the network gets them"
        write_sheet(run.batches, cells, f"{plan.config.name}: training pictures", subtitle)


def _shown(plan: Plan, image: Any, target: Any) -> Image.Image:
    pixels = np.asarray(image)
    return masked(pixels, np.asarray(target)) if plan.task.dense else Image.fromarray(pixels)


class Curves(Callback):
    """Draws `curves.png` now and then while a run goes on, and at its end."""

    def __init__(self, plan: Plan, run: RunFolder, history: History) -> None:
        self._path, self._history, self._monitor = run.curves, history, f"val_{plan.task.monitor}"
        self._title = f"{plan.config.name}, run {run.path.name}"
        self._drawn = float("-inf")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() >= self._drawn + _EVERY_S:
            self._draw()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._history.rows:
            with spared(self._path):
                draw_curves(self._path, self._history.rows, self._monitor, self._title)
        self._drawn = time.monotonic()


class Confusions:
    """What was taken for what in a pass over the validation pictures."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        self._plan, self._run = plan, run
        self._found: dict[str, Confusion] = {}

    def add(self, batch: Answered) -> None:
        """Count a batch of answers."""
        with spared(self._run.confusion("")):
            targets = self._plan.task.golden_targets(batch.targets)
            found = self._plan.task.confusion(batch.outputs, targets, self._plan.splits.question)
            for head, confusion in found.items():
                self._found[head] = self._found[head] + confusion if head in self._found else confusion

    def draw(self) -> None:
        """Draw `confusion.png`, or one for each head that has classes."""
        for head, confusion in self._found.items():
            path = self._run.confusion(head)
            with spared(path):
                of = f"{self._plan.config.name}, {head}" if head else self._plan.config.name
                draw_confusion(path, confusion, f"{of}: best epoch, validation")


def draw_predictions(plan: Plan, run: RunFolder) -> None:
    """Draw the golden pictures with the best epoch's answers and the truths."""
    with spared(run.predictions):
        golden = Golden.load(run.path / GOLDEN_FILE)
        cells = _answered_cells(plan, golden)
        how = "left the truth, right the answer" if plan.task.dense else "green is right, red is wrong"
        subtitle = f"{len(cells)} of {len(plan.splits.val)} validation pictures · {how}"
        write_sheet(run.predictions, cells, f"{plan.config.name}: answers of the best epoch", subtitle)


def _answered_cells(plan: Plan, golden: Golden) -> list[Cell]:
    task, spec, seen = plan.task, plan.network.spec, as_seen(plan.network.spec.preprocess)
    samples = golden_samples(plan.splits.val, task)
    told = [task.describe_truth(sample.truth) for sample in samples]
    said = task.said(golden.outputs, golden.targets, spec, samples, seen)
    wrongness = task.error_score(golden.outputs, golden.targets, spec)
    cells = []
    for number, image in enumerate(golden.images):
        output = {name: array[number] for name, array in golden.outputs.items()}
        answer = task_of(spec).answer(output, seen, top=1).mask
        colour = INK if task.dense else WRONG if wrongness[number] > 0 else RIGHT
        shown = Image.fromarray(image)
        if answer is not None:
            truth = task.target(samples[number].truth, False, spec.preprocess, spec)
            shown = side_by_side(masked(image, truth), masked(image, np.where(truth == IGNORED, truth, answer)))
        cells.append(Cell(shown, said[number], f"truth: {told[number]}", colour))
    return cells
