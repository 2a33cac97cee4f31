"""Divides labelled images into k folds with a seed: stratified, by group or by class; copies of an image stay together.

In fold i, the images of fold i are the part `test`. `val` is split off from the other folds, so that the best epoch is
not chosen on the images that it is measured on.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from train.config.sections import DataConfig
from train.data.splits import CheckedData, Splits, read_checked
from train.data.splitting import split_parts
from train.tasks.base import TrainingTask
from tritonkit.errors import DataError, Problem
from tritonkit.evaluation.labelled_images import raise_if_any
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import Sample, listed


def fold_seed(seed: int, fold: int) -> int:
    """Return the seed of one fold in 0..2^32-1, from the seed of the experiment and the number of the fold alone."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def read_folds(
    config: DataConfig, task: TrainingTask, seed: int, count: int
) -> tuple[list[Splits], tuple[Sample, ...]]:
    """Read, check and divide the data; return the splits of each fold, and the samples of a part `test` of the data.

    The parts train and val of the data are divided. Equal data, seed and count give equal folds. Raises DataError that
    lists all problems, also those of single folds: a class with fewer images than folds, a part without a class.
    """
    checked = read_checked(config, task, val_in_train=True)
    samples = sorted(checked.parts["train"], key=lambda sample: sample.path)
    unit = checked.unit
    keys = _keys(samples, unit, task, checked)
    raise_if_any(checked.origin, _count_problems(samples, keys, unit, task, count))
    pool = list(zip(samples, _fold_numbers(samples, keys, unit, task, seed, count), strict=True))
    folds = []
    for fold in range(1, count + 1):
        others = [sample for sample, number in pool if number != fold]
        held_out = [sample for sample, number in pool if number == fold]
        try:
            ratio = {"val": config.val_ratio}
            parts = split_parts(others, ratio, task, unit, fold_seed(seed, fold), checked.digests)
        except DataError as error:
            raise DataError(f"{checked.origin}: fold {fold}: of the other folds, {error}", code=error.code) from error
        folds.append(checked.splits({**parts, "test": held_out, "base": checked.parts["base"]}, task))
    problems = [
        Problem(problem.code, f"fold {fold}: {problem}")
        for fold, splits in enumerate(folds, start=1)
        for problem in _fold_problems(splits, task)
    ]
    raise_if_any(checked.origin, problems)
    checked.warn_of_near_duplicates(
        {f"fold {fold}": splits.test for fold, splits in enumerate(folds, start=1)} | {"test": checked.parts["test"]}
    )
    return folds, tuple(checked.parts["test"])


def _keys(samples: Sequence[Sample], unit: str, task: TrainingTask, checked: CheckedData) -> list[str]:
    """Return for each sample the name of what stays together with it: its class, its group, or its copies."""
    if unit == "class":
        return [task.classes(sample.truth)[0] for sample in samples]
    return [sample.group if unit == "group" else checked.digests[sample.path] for sample in samples]


def _count_problems(
    samples: Sequence[Sample], keys: Sequence[str], unit: str, task: TrainingTask, count: int
) -> list[Problem]:
    """Report classes with fewer images or groups than folds, or too few of these in all."""
    words = {"class": "classes", "group": "groups"}.get(unit, "different images")
    if len(set(keys)) < count:
        distinct = len(set(keys))
        return [Problem("folds.too_few", f"{distinct} {words} are too few for {count} folds; use a smaller -k")]
    if unit == "class":
        return []
    keys_by_class = defaultdict[str, set[str]](set)
    for sample, key in zip(samples, keys, strict=True):
        for label in task.classes(sample.truth):
            keys_by_class[label].add(key)
    small = [f"{label} has {len(each)}" for label, each in sorted(keys_by_class.items()) if len(each) < count]
    return listed(
        f"classes with fewer {words} than the {count} folds; use a smaller -k, or leave these classes out",
        small,
        code="folds.class_too_small",
    )


def _fold_numbers(
    samples: Sequence[Sample], keys: Sequence[str], unit: str, task: TrainingTask, seed: int, count: int
) -> list[int]:
    """Return the fold of each sample, from 1."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = Counter(label for sample in samples for label in task.classes(sample.truth))
    if unit == "picture":
        truths = dict(zip(keys, (sample.truth for sample in samples), strict=True))
        units: list[Hashable] = list(truths)
        strata = [task.stratum(truth, counts) for truth in truths.values()]
        folds, groups = StratifiedKFold(count, shuffle=True, random_state=seed), None
    else:
        units, groups = list(range(len(samples))), list(keys)
        strata = [task.stratum(sample.truth, counts) if unit == "group" else "" for sample in samples]
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    if max(Counter(strata).values()) < count:
        strata = [""] * len(units)  # too few of each to stratify
    number_of: dict[Hashable, int] = {}
    with warnings.catch_warnings():
        # scikit-learn warns about a stratum with fewer images than folds.
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, selected) in enumerate(folds.split(units, strata, groups), start=1):
            number_of |= {units[index]: number for index in selected}
    return [number_of[key if unit == "picture" else index] for index, key in enumerate(keys)]


def _fold_problems(splits: Splits, task: TrainingTask) -> list[Problem]:
    truths = {part: [sample.truth for sample in getattr(splits, part)] for part in PARTS}
    problems = task.validate_splits(truths, splits.task_spec, minimum=1)
    if not problems and (reason := task.monitor_problem(truths["val"], truths["base"])) is not None:
        problems.append(
            Problem(
                "data.monitor_not_measurable",
                f"{task.monitor}, which selects the best epoch, cannot be measured: {reason}; add images",
            )
        )
    return problems
