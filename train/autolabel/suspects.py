"""Finds given labels that look wrong, with cleanlab and the answers of models that have not trained on the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from train.autolabel.labelling import Probabilities
from train.autolabel.pictures import Pictures
from tritonkit.errors import ConfigError
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.spec import Frozen
from tritonkit.system.console import warn

Answer = Callable[[str, Pictures, tuple[Sample, ...]], Probabilities]
"""Trains on the pictures' parts in a subfolder of this name; returns the best network's probabilities of samples."""


class Suspect(Frozen):
    """A given label that looks wrong."""

    image_path: str
    label: str
    """As given."""
    suggestion: str
    """The label of a model that has not trained on the picture."""
    quality: float
    """The probability that this model gives to the given label; lower is more suspicious."""


def check_cleanlab() -> None:
    """Raise ConfigError if cleanlab is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the check of the given labels needs cleanlab; install it with: pip install 'tritonkit[autolabel]', or "
            "leave the check out with --folds 0",
            code="install.missing_module",
        ) from error


def find_suspects(pictures: Pictures, answer: Answer, folds: int) -> list[Suspect]:
    """List the given labels of train, calibration and val that look wrong, the most suspicious first.

    Each model trains on all but one fold of train and calibration, and answers to that fold. Val only picks the epoch;
    its answers are the means of all models. The holdout is not looked at.
    """
    from cleanlab.filter import find_label_issues

    samples = (*pictures.splits.train, *pictures.calibration)
    counts = Counter(str(sample.truth) for sample in samples)
    if rare := [label for label in pictures.labels if counts[label] < folds]:
        warn(f"the given labels are not checked: fewer than {folds} pictures of {', '.join(rare):.200}")
        return []
    probabilities = _out_of_fold(pictures, samples, answer, folds)
    checked = (*samples, *pictures.splits.val)
    truths = np.array([pictures.labels.index(sample.truth) for sample in checked])
    ranked = find_label_issues(truths, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        Suspect(
            image_path=str(checked[i].path.absolute()),
            label=pictures.labels[truths[i]],
            suggestion=pictures.labels[int(probabilities[i].argmax())],
            quality=round(float(probabilities[i, truths[i]]), 6),
        )
        for i in ranked
    ]


def _out_of_fold(pictures: Pictures, samples: tuple[Sample, ...], answer: Answer, folds: int) -> Probabilities:
    """Return probabilities [N + V, C] of the samples and of val by models that have not trained on them."""
    from sklearn.model_selection import StratifiedKFold

    val = pictures.splits.val
    found = np.zeros((len(samples) + len(val), len(pictures.labels)), dtype=np.float32)
    split = StratifiedKFold(folds, shuffle=True, random_state=0).split(samples, [sample.truth for sample in samples])
    for number, (others, fold) in enumerate(split, start=1):
        train = tuple(samples[i] for i in others)
        part = replace(pictures, splits=replace(pictures.splits, train=train))
        answers = answer(f"fold-{number}", part, (*(samples[i] for i in fold), *val))
        found[fold] = answers[: len(fold)]
        found[len(samples) :] += answers[len(fold) :] / folds
    return found
