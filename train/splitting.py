"""Samples into parts: stratified, by whole classes, and copies of a picture kept together; seeded."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from model.errors import ConfigError, DataError
from train.samples import Sample
from train.tasks.base import TrainingTask


def keep_most_common(parts: Mapping[str, Sequence[Sample]], task: TrainingTask, count: int) -> dict[str, list[Sample]]:
    """The samples of the `count` most common classes of train; of equally common ones, those that sort first.

    Parts that have classes of their own are left as they are. Raises ConfigError where pictures have no classes.
    """
    counts = Counter(label for sample in parts["train"] for label in task.classes(sample.truth))
    if parts["train"] and not counts:
        raise ConfigError(f"data.top_classes: the pictures of {task.name} have no classes; leave it out")
    kept = set(sorted(counts, key=lambda label: (-counts[label], label))[:count])
    left = {
        part: [sample for sample in samples if set() < set(task.classes(sample.truth)) <= kept]
        if part == "train" or task.split_by == "picture"
        else list(samples)
        for part, samples in parts.items()
    }
    if parts["train"] and not left["train"]:
        raise ConfigError(
            f"data.top_classes: no picture has only classes of the {count} most common, "
            f"{', '.join(sorted(kept)):.200}; raise it or leave it out"
        )
    return left


def split_off(
    samples: Sequence[Sample],
    ratios: Mapping[str, float],
    task: TrainingTask,
    by: str,
    seed: int,
    digests: Mapping[Path, str],
) -> dict[str, list[Sample]]:
    """Split parts off; `train` is what is left. Ratios are of all samples.

    Raises DataError when a part would be left without pictures.
    """
    parts: dict[str, list[Sample]] = {"train": list(samples)}
    for part, ratio in ratios.items():
        count = round(len(samples) * ratio)
        divide = {"class": _by_class, "group": _by_group}.get(by, _stratified)
        parts["train"], parts[part] = divide(parts["train"], count, task, seed, digests)
        if not parts[part] or not parts["train"]:
            raise DataError(_why_not(part, count, samples, task, by))
    return parts


def _why_not(part: str, count: int, samples: Sequence[Sample], task: TrainingTask, by: str) -> str:
    classes = {label for sample in samples for label in task.classes(sample.truth)}
    if by == "group":
        groups = len({sample.group for sample in samples})
        return f"{groups} groups are too few to give {part} whole ones and keep some to train on: bring more of them"
    if by == "picture":
        change = "raise" if 2 * count < len(samples) else "lower"
        each = f" and leave each of {len(classes)} classes in every part" if classes else ""
        return f"{count} of {len(samples)} pictures cannot become {part}{each}: {change} data.{part}_ratio"
    return (
        f"{len(classes)} classes are too few to give {part} whole ones and keep two to train on: "
        "bring more, or split by picture (data.split_by: picture)"
    )


Halves = tuple[list[Sample], list[Sample]]


def _by_class(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> Halves:
    """Whole classes, in random order, until the part has its count."""
    classes = sorted({label for sample in samples for label in task.classes(sample.truth)})
    random.Random(seed).shuffle(classes)  # noqa: S311 - a reproducible shuffle, no secret
    sizes = Counter(task.classes(sample.truth)[0] for sample in samples)
    taken, total = set[str](), 0
    for label in classes[: len(classes) - 2]:  # two are left to train on
        if total >= count:
            break
        taken.add(label)
        total += sizes[label]
    kept = [sample for sample in samples if task.classes(sample.truth)[0] not in taken]
    return kept, [sample for sample in samples if task.classes(sample.truth)[0] in taken]


def _by_group(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> Halves:
    """Whole groups, as near to the count and to the classes' proportions as they allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [sample.group for sample in samples]
    folds = min(max(2, round(len(samples) / max(count, 1))), len(set(groups)))
    if folds < 2:
        return list(samples), []
    counts = Counter(label for sample in samples for label in task.classes(sample.truth))
    strata = [task.stratum(sample.truth, counts) for sample in samples]
    if max(Counter(strata).values()) < folds:
        strata = [""] * len(samples)  # too few of each to be spread
    with warnings.catch_warnings():
        # A class with fewer pictures than there are folds cannot be in each.
        warnings.simplefilter("ignore", UserWarning)
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(samples, strata, groups)
        taken = [set(fold.tolist()) for _, fold in split]
    fold = min(taken, key=lambda fold: (_lost(samples, fold, task), not fold, abs(len(fold) - count)))
    return [s for i, s in enumerate(samples) if i not in fold], [s for i, s in enumerate(samples) if i in fold]


def _lost(samples: Sequence[Sample], fold: Container[int], task: TrainingTask) -> int:
    """Count the classes that only the fold has, so that training would not know them."""
    inside, outside = set[str](), set[str]()
    for number, sample in enumerate(samples):
        (inside if number in fold else outside).update(task.classes(sample.truth))
    return len(inside - outside)


def _stratified(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> Halves:
    """In proportion to the classes. Copies of one picture go together: they would measure what was learned by heart."""
    from sklearn.model_selection import train_test_split

    first = {digests[sample.path]: sample for sample in reversed(samples)}
    single = [sample for sample in samples if first[digests[sample.path]] is sample]
    counts = Counter(label for sample in samples for label in task.classes(sample.truth))
    strata = [task.stratum(sample.truth, counts) for sample in single]
    share = round(count * len(single) / len(samples))
    # Strata of one cannot be in both halves: together they may be, else they join a big one.
    rare = Counter(strata)
    strata = [stratum if rare[stratum] > 1 else "" for stratum in strata]
    if Counter(strata)[""] == 1:
        strata[strata.index("")] = rare.most_common(1)[0][0]
    least = len(set(strata))
    if not least <= share <= len(single) - least:
        return list(samples), []
    _, taken = train_test_split(single, test_size=share, random_state=seed, stratify=strata)
    gone = {digests[sample.path] for sample in taken}
    kept = [sample for sample in samples if digests[sample.path] not in gone]
    return kept, [sample for sample in samples if digests[sample.path] in gone]
