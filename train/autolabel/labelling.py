"""The labels that the rounds have given to a group of pictures, with their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.autolabel.risk import Counts
from tritonkit.evaluation.evaluate import BATCH_SIZE, load_sample
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.runtimes import open_artifact
from tritonkit.system.console import track_progress

Probabilities = NDArray[np.float32]


class Labelling:
    """Pictures on their way through the rounds. A picture keeps the label of the round that accepted it.

    That model had not trained on the picture. A later one has, and repeats its label with a confidence that says
    nothing; so pictures with a known truth, which no model trains on, take the same way to measure the error.
    """

    def __init__(self, paths: Sequence[Path], truths: Sequence[int] | None = None) -> None:
        """truths: numbers of the true labels, where they are known."""
        self.paths = tuple(paths)
        self.truths = None if truths is None else np.array(truths, dtype=np.int64)
        self.labels = np.zeros(len(self.paths), dtype=np.int64)
        """[N] the number of the label that the accepting, or else the last model gave."""
        self.confidence = np.zeros(len(self.paths), dtype=np.float32)
        """[N] its probability."""
        self.rounds = np.zeros(len(self.paths), dtype=np.int64)
        """[N] the round that accepted the label; 0 for none."""

    @property
    def pending(self) -> NDArray[np.intp]:
        """The numbers of the pictures that no round has accepted."""
        return np.flatnonzero(self.rounds == 0)

    def answer(self, probabilities: Probabilities) -> None:
        """Take over a model's answers [P, C] to the P pending pictures."""
        self.labels[self.pending] = probabilities.argmax(axis=1)
        self.confidence[self.pending] = probabilities.max(axis=1)

    def accept(self, threshold: float, number: int) -> int:
        """Accept the labels of pending pictures from this confidence on; return how many."""
        pending = self.pending
        accepted = pending[self.confidence[pending] >= threshold]
        self.rounds[accepted] = number
        return len(accepted)

    def wrong(self) -> NDArray[np.bool_]:
        """[N] whether a label differs from the truth, which must be known."""
        if self.truths is None:
            raise ValueError("the truths of these pictures are not known")
        differs: NDArray[np.bool_] = self.labels != self.truths
        return differs

    def counts(self) -> Counts:
        """How many labels were accepted, and how many of these are wrong."""
        accepted = self.rounds > 0
        return Counts(int(accepted.sum()), int((accepted & self.wrong()).sum()))


def predict(checkpoint: Path, paths: Sequence[Path], doing: str) -> Probabilities:
    """Return the probabilities [N, C] of a multiclass checkpoint for pictures. doing: title of the progress bar."""
    answers: list[NDArray[Any]] = []
    with open_artifact(checkpoint) as runner, ThreadPoolExecutor() as pool:
        starts = range(0, len(paths), BATCH_SIZE)
        for start in track_progress(starts, doing, len(starts)):
            batch = [Sample(path, None) for path in paths[start : start + BATCH_SIZE]]
            images = pool.map(lambda sample: load_sample(sample, runner.spec.preprocess)[0], batch)
            answers.append(runner.infer(np.stack(list(images)))["probabilities"])
        labels = len(runner.spec.labels)
    return np.concatenate(answers) if answers else np.zeros((0, labels), dtype=np.float32)
