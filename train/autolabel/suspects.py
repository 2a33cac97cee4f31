"""Finds given labels that look wrong, with cleanlab and the answers of models that have not trained on the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from train.autolabel.data import AutolabelData
from train.autolabel.labelling import Probabilities
from tritonkit.errors import ConfigError
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.spec import Frozen
from tritonkit.system.console import warn

TrainAndPredict = Callable[[str, tuple[Sample, ...], tuple[Sample, ...]], Probabilities]
"""Trains on the first samples in a subfolder of this name; returns the best network's probabilities of the others."""

_MIN_ACCURACY = 0.5
"""Below this accuracy, a model that differs from a given label says little about it."""


class Suspect(Frozen):
    """A given label that looks wrong."""

    image_path: str
    label: str
    """As given."""
    suggestion: str
    """The label of a model that has not trained on the image."""
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


def find_suspects(data: AutolabelData, answer: TrainAndPredict, folds: int) -> list[Suspect] | None:
    """List the given labels of train, calibration and val that look wrong, the most suspicious first.

    Each model trains on all but one fold of train and calibration, and answers to that fold. Val only picks the epoch;
    its answers are the means of all models. The holdout is not looked at. None, with a warning, if a label has too few
    images or groups for this number of folds.
    """
    from cleanlab.filter import find_label_issues

    samples = (*data.splits.train, *data.calibration)
    numbers = _fold_numbers(data, samples, folds)
    if numbers is None:
        return None
    probabilities = _out_of_fold(data, samples, answer, numbers)
    checked = (*samples, *data.splits.val)
    truths = np.array([data.labels.index(sample.truth) for sample in checked])
    if (right := float((probabilities.argmax(axis=1) == truths).mean())) < _MIN_ACCURACY:
        warn(
            f"the models that check the given labels are right for only {right:.0%} of them, so many right labels will "
            "look wrong; more epochs may help, --folds 0 leaves the check out"
        )
    ranked = find_label_issues(truths, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [
        Suspect(
            image_path=str(checked[i].path.absolute()),
            label=data.labels[truths[i]],
            suggestion=data.labels[int(probabilities[i].argmax())],
            quality=round(float(probabilities[i, truths[i]]), 6),
        )
        for i in ranked
    ]


def _fold_numbers(data: AutolabelData, samples: tuple[Sample, ...], folds: int) -> NDArray[np.int64] | None:
    """Return the fold of each sample, [N] from 1; a group, or else the copies of an image, stay in one fold.

    None, with a warning, if a label is not in all folds' training parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [str(sample.truth) for sample in samples]
    digests = data.checked.digests
    keys = [sample.group if data.splits.group and sample.group else digests[sample.path] for sample in samples]
    counts = Counter(label for label, _ in set(zip(labels, keys, strict=True)))
    rare = {label for label in data.labels if counts[label] < folds}
    numbers = np.zeros(len(samples), dtype=np.int64)
    if not rare:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(samples, labels, keys)
        for number, (others, fold) in enumerate(split, start=1):
            numbers[fold] = number
            rare |= set(data.labels) - {labels[i] for i in others}
    if rare:
        what = "groups" if data.splits.group else "different images"
        warn(f"the given labels are not checked: too few {what} for {folds} folds of {', '.join(sorted(rare)):.200}")
        return None
    return numbers


def _out_of_fold(
    data: AutolabelData, samples: tuple[Sample, ...], answer: TrainAndPredict, numbers: NDArray[np.int64]
) -> Probabilities:
    """Return probabilities [N + V, C] of the samples and of val by models that have not trained on them."""
    val, folds = data.splits.val, int(numbers.max())
    found = np.zeros((len(samples) + len(val), len(data.labels)), dtype=np.float32)
    for number in range(1, folds + 1):
        fold = np.flatnonzero(numbers == number)
        train = tuple(samples[i] for i in np.flatnonzero(numbers != number))
        answers = answer(f"fold-{number}", train, (*(samples[i] for i in fold), *val))
        found[fold] = answers[: len(fold)]
        found[len(samples) :] += answers[len(fold) :] / folds
    return found
