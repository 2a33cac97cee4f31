"""Finds given labels that look wrong, with cleanlab and the answers of models that have not trained on the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from train.autolabel.labelling import Probabilities
from train.autolabel.pictures import Pictures
from tritonkit.errors import ConfigError
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.spec import Frozen
from tritonkit.system.console import warn

Answer = Callable[[str, tuple[Sample, ...], tuple[Sample, ...]], Probabilities]
"""Trains on the first samples in a subfolder of this name; returns the best network's probabilities of the others."""


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
    numbers = _fold_numbers(pictures, samples, folds)
    if numbers is None:
        return []
    probabilities = _out_of_fold(pictures, samples, answer, numbers)
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


def _fold_numbers(pictures: Pictures, samples: tuple[Sample, ...], folds: int) -> NDArray[np.int64] | None:
    """Return the fold of each sample, [N] from 1; a group and the copies of a picture stay in one fold.

    None, with a warning, if a label is not in all folds' training parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [str(sample.truth) for sample in samples]
    digests = pictures.checked.digests
    keys = [sample.group if pictures.splits.group and sample.group else digests[sample.path] for sample in samples]
    counts = Counter(label for label, _ in set(zip(labels, keys, strict=True)))
    rare = {label for label in pictures.labels if counts[label] < folds}
    numbers = np.zeros(len(samples), dtype=np.int64)
    if not rare:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(samples, labels, keys)
        for number, (others, fold) in enumerate(split, start=1):
            numbers[fold] = number
            rare |= set(pictures.labels) - {labels[i] for i in others}
    if rare:
        what = "groups" if pictures.splits.group else "different pictures"
        warn(f"the given labels are not checked: too few {what} for {folds} folds of {', '.join(sorted(rare)):.200}")
        return None
    return numbers


def _out_of_fold(
    pictures: Pictures, samples: tuple[Sample, ...], answer: Answer, numbers: NDArray[np.int64]
) -> Probabilities:
    """Return probabilities [N + V, C] of the samples and of val by models that have not trained on them."""
    val, folds = pictures.splits.val, int(numbers.max())
    found = np.zeros((len(samples) + len(val), len(pictures.labels)), dtype=np.float32)
    for number in range(1, folds + 1):
        fold = np.flatnonzero(numbers == number)
        train = tuple(samples[i] for i in np.flatnonzero(numbers != number))
        answers = answer(f"fold-{number}", train, (*(samples[i] for i in fold), *val))
        found[fold] = answers[: len(fold)]
        found[len(samples) :] += answers[len(fold) :] / folds
    return found
