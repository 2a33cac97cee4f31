"""The pictures that a model was most wrong about, as a page to look through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import default_collate

from model.gallery import Tile, thumbnail, write_gallery
from model.spec import ModelSpec
from model.tasks import task_of
from train.dataset import load_sample
from train.measure import Answered
from train.overlays import JUDGED_COLOURS, as_seen, judged
from train.samples import Sample
from train.tasks import TrainingTask

MAX_MISTAKES = 100


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the output behind it, without the batch axis, how wrong it is, in 0..1, and in words."""

    sample: Sample
    output: Mapping[str, NDArray[Any]]
    wrongness: float
    said: str = ""


class Mistakes:
    """The worst answers of a pass over labelled pictures. Outputs are held for these alone, where the task allows."""

    def __init__(self, task: TrainingTask, spec: ModelSpec) -> None:
        self._task, self._spec = task, spec
        self._held: list[Mistake] = []
        self._pictures = self._wrong = 0

    def add(self, batch: Answered) -> None:
        """Look at a batch of answers."""
        looked_up = [sample for sample in batch.samples if not (self._task.compares and sample.gallery)]
        self._pictures += len(looked_up)
        if self._task.compares:
            self._hold(batch, np.zeros(len(batch.samples)), range(len(batch.samples)))
            return
        wrongness = self._task.error_score(batch.outputs, self._task.golden_targets(batch.targets), self._spec)
        wrong = np.flatnonzero(wrongness)
        self._wrong += len(wrong)
        self._hold(batch, wrongness, wrong.tolist())
        self._held = sorted(self._held, key=lambda held: -held.wrongness)[:MAX_MISTAKES]

    def worst(self) -> list[Mistake]:
        """Up to MAX_MISTAKES wrong answers, the worst first."""
        if not self._held:
            return []
        task, spec = self._task, self._spec
        samples = [held.sample for held in self._held]
        outputs = {name: np.stack([held.output[name] for held in self._held]) for name in self._held[0].output}
        targets = task.golden_targets(default_collate([self._target(sample) for sample in samples]))
        wrongness = task.error_score(outputs, targets, spec)
        if task.compares:
            self._wrong = int(np.count_nonzero(wrongness))
        said = task.said(outputs, targets, spec, samples, as_seen(spec.preprocess))
        order = [int(i) for i in np.argsort(-wrongness, kind="stable") if wrongness[i] > 0]
        return [Mistake(samples[i], self._held[i].output, float(wrongness[i]), said[i]) for i in order[:MAX_MISTAKES]]

    def write(self, path: Path, origin: str) -> None:
        """Write the page of the worst. `origin`: what was measured on what."""
        worst, name = self.worst(), self._spec.name
        if worst:
            title = f"{name}: {self._wrong} of {self._pictures} answers differ from the truth"
            facts = ["the worst first", *([JUDGED_COLOURS] if self._task.dense else []), origin]
        else:
            title = f"{name}: no mistakes"
            facts = [f"all {self._pictures} pictures are answered rightly", origin]
        write_gallery(path, [self._tile(mistake) for mistake in worst], title, " · ".join(facts), total=self._wrong)

    def _hold(self, batch: Answered, wrongness: NDArray[np.float64], numbers: Iterable[int]) -> None:
        for number in numbers:
            output = {name: array[number].copy() for name, array in batch.outputs.items()}
            self._held.append(Mistake(batch.samples[number], output, float(wrongness[number])))

    def _target(self, sample: Sample) -> Any:
        return self._task.target(sample.truth, sample.gallery, self._spec.preprocess, self._spec)

    def _tile(self, mistake: Mistake) -> Tile:
        truth = self._task.describe_truth(mistake.sample.truth)
        return Tile(
            name=f"{mistake.sample.path} · wrong by {mistake.wrongness:.2f}",
            image=thumbnail(self._picture(mistake)),
            caption=f"{mistake.said} · truth: {truth}",
        )

    def _picture(self, mistake: Mistake) -> Image.Image:
        sample, spec = mistake.sample, self._spec
        image = load_sample(sample, spec.preprocess)[0]
        answer = task_of(spec).answer(mistake.output, as_seen(spec.preprocess), top=1).mask
        if answer is None:
            return Image.fromarray(image)
        return judged(image, self._target(sample), answer)
