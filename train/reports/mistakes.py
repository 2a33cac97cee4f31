"""A report of the images with the worst answers of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import default_collate

from train.reports.overlays import COMPARISON_LEGEND, comparison_overlay, model_input_geometry
from tritonkit.evaluation.evaluate import AnsweredBatch, load_sample
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.evaluation.tasks import EvaluationTask
from tritonkit.pages.contact_sheet import ContactSheetTile, thumbnail, write_contact_sheet
from tritonkit.spec import ModelSpec
from tritonkit.tasks import task_of

MAX_MISTAKES = 100


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: its output without the batch axis, its error score in 0..1, and its description."""

    sample: Sample
    output: Mapping[str, NDArray[Any]]
    error_score: float
    answer: str = ""


@dataclass(frozen=True)
class MistakeSummary:
    """The number of wrong answers and of all images, with tiles of the worst."""

    wrong: int
    images: int
    tiles: tuple[ContactSheetTile, ...]


class MistakeCollector:
    """Collects the worst answers over labelled images. Stores only their outputs, unless the task compares samples."""

    def __init__(self, task: EvaluationTask, spec: ModelSpec) -> None:
        self._task, self._spec = task, spec
        self._mistakes: list[Mistake] = []
        self._image_count = self._wrong_count = 0

    def add(self, batch: AnsweredBatch) -> None:
        """Score a batch of answers, and keep the worst."""
        queries = [sample for sample in batch.samples if not (self._task.compares_samples and sample.gallery)]
        self._image_count += len(queries)
        if self._task.compares_samples:
            self._keep(batch, np.zeros(len(batch.samples)), range(len(batch.samples)))
            return
        error_score = self._task.error_score(batch.outputs, self._task.golden_targets(batch.targets), self._spec)
        wrong = np.flatnonzero(error_score)
        self._wrong_count += len(wrong)
        self._keep(batch, error_score, wrong.tolist())
        self._mistakes = sorted(self._mistakes, key=lambda mistake: -mistake.error_score)[:MAX_MISTAKES]

    def worst(self) -> list[Mistake]:
        """Return up to MAX_MISTAKES wrong answers, the worst first."""
        if not self._mistakes:
            return []
        task, spec = self._task, self._spec
        samples = [mistake.sample for mistake in self._mistakes]
        outputs = {
            name: np.stack([mistake.output[name] for mistake in self._mistakes]) for name in self._mistakes[0].output
        }
        targets = task.golden_targets(default_collate([self._target(sample) for sample in samples]))
        error_scores = task.error_score(outputs, targets, spec)
        if task.compares_samples:
            self._wrong_count = int(np.count_nonzero(error_scores))
        answers = task.describe_answers(outputs, targets, spec, samples, model_input_geometry(spec.preprocess))
        order = [int(i) for i in np.argsort(-error_scores, kind="stable") if error_scores[i] > 0]
        return [
            Mistake(samples[i], self._mistakes[i].output, float(error_scores[i]), answers[i])
            for i in order[:MAX_MISTAKES]
        ]

    def summary(self, tiles: int = MAX_MISTAKES) -> MistakeSummary:
        """Return the counts, and up to this number of tiles, the worst first."""
        worst = [self._tile(mistake) for mistake in self.worst()[:tiles]]
        return MistakeSummary(self._wrong_count, self._image_count, tuple(worst))

    def write(self, path: Path, origin: str) -> None:
        """Write the report of the worst mistakes. origin: what was measured, and on which data."""
        summary, name = self.summary(), self._spec.name
        if summary.tiles:
            title = f"{name}: {summary.wrong} of {summary.images} answers differ from the truth"
            notes = ["the worst first", *([COMPARISON_LEGEND] if self._task.dense else []), origin]
        else:
            title = f"{name}: no mistakes"
            notes = [f"all {summary.images} answers are correct", origin]
        write_contact_sheet(path, summary.tiles, title, " · ".join(notes), total=summary.wrong)

    def _keep(self, batch: AnsweredBatch, error_scores: NDArray[np.float64], numbers: Iterable[int]) -> None:
        for number in numbers:
            output = {name: array[number].copy() for name, array in batch.outputs.items()}
            self._mistakes.append(Mistake(batch.samples[number], output, float(error_scores[number])))

    def _target(self, sample: Sample) -> Any:
        return self._task.target(sample.truth, sample.gallery, self._spec.preprocess, self._spec)

    def _tile(self, mistake: Mistake) -> ContactSheetTile:
        truth = self._task.describe_truth(mistake.sample.truth)
        return ContactSheetTile(
            name=f"{mistake.sample.path} · wrong by {mistake.error_score:.2f}",
            image=thumbnail(self._picture(mistake)),
            caption=f"{mistake.answer} · truth: {truth}",
        )

    def _picture(self, mistake: Mistake) -> Image.Image:
        sample, spec = mistake.sample, self._spec
        image = load_sample(sample, spec.preprocess)[0]
        answer = task_of(spec).answer(mistake.output, model_input_geometry(spec.preprocess), top=1).mask
        if answer is None:
            return Image.fromarray(image)
        return comparison_overlay(image, self._target(sample), answer)
