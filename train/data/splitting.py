"""Splits samples into parts with a seed: stratified, by class or by group; copies of an image stay together."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from train.tasks.base import TrainingTask
from tritonkit.errors import ConfigError, DataError
from tritonkit.evaluation.samples.sample import Sample


def keep_most_common_classes(
    parts: Mapping[str, Sequence[Sample]], task: TrainingTask, count: int
) -> dict[str, list[Sample]]:
    """Keep the samples of the `count` most common classes of train; ties are resolved by sort order.

    With a split by class, val and test have other classes and stay unchanged. Raises ConfigError if images have no
    classes.
    """
    counts = Counter(label for sample in parts["train"] for label in task.classes(sample.truth))
    if parts["train"] and not counts:
        raise ConfigError(
            f"data.top_classes: images of {task.name} have no classes; leave it out",
            code="data.top_classes_without_classes",
        )
    common = set(sorted(counts, key=lambda label: (-counts[label], label))[:count])
    remaining = {
        part: [sample for sample in samples if set() < set(task.classes(sample.truth)) <= common]
        if part == "train" or task.split_by == "picture"
        else list(samples)
        for part, samples in parts.items()
    }
    if parts["train"] and not remaining["train"]:
        raise ConfigError(
            f"data.top_classes: no image has only the {count} most common classes, "
            f"{', '.join(sorted(common)):.200}; raise it or leave it out",
            code="data.top_classes_too_few",
        )
    return remaining


def split_parts(
    samples: Sequence[Sample],
    ratios: Mapping[str, float],
    task: TrainingTask,
    by: str,
    seed: int,
    digests: Mapping[Path, str],
) -> dict[str, list[Sample]]:
    """Split the samples into parts; `train` is the rest. Ratios refer to all samples.

    Raises DataError if a part would have no images.
    """
    parts: dict[str, list[Sample]] = {"train": list(samples)}
    for part, ratio in ratios.items():
        count = round(len(samples) * ratio)
        split = {"class": _by_class, "group": _by_group}.get(by, _stratified)
        parts["train"], parts[part] = split(parts["train"], count, task, seed, digests)
        if not parts[part] or not parts["train"]:
            raise _split_error(part, count, samples, task, by)
    return parts


def _split_error(part: str, count: int, samples: Sequence[Sample], task: TrainingTask, by: str) -> DataError:
    classes = {label for sample in samples for label in task.classes(sample.truth)}
    if by == "group":
        groups = len({sample.group for sample in samples})
        return DataError(
            f"{groups} groups are too few: {part} needs whole groups, and some must remain in train; add groups",
            code="data.too_few_groups",
        )
    if by == "picture":
        change = "raise" if 2 * count < len(samples) else "lower"
        each = f" so that each of {len(classes)} classes is in every part" if classes else ""
        return DataError(
            f"{count} of {len(samples)} images cannot be split off as {part}{each}: {change} data.{part}_ratio",
            code="data.split_ratio",
        )
    return DataError(
        f"{len(classes)} classes are too few: {part} needs whole classes, and two must remain in train; "
        "add classes, or split by picture (data.split_by: picture)",
        code="data.too_few_classes",
    )


SplitSamples = tuple[list[Sample], list[Sample]]


def _by_class(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> SplitSamples:
    """Move whole classes, in random order, into the new part until it has `count` samples."""
    classes = sorted({label for sample in samples for label in task.classes(sample.truth)})
    random.Random(seed).shuffle(classes)  # noqa: S311 - a reproducible shuffle, no secret
    sizes = Counter(task.classes(sample.truth)[0] for sample in samples)
    moved, total = set[str](), 0
    for label in classes[: len(classes) - 2]:  # two are left to train on
        if total >= count:
            break
        moved.add(label)
        total += sizes[label]
    remaining = [sample for sample in samples if task.classes(sample.truth)[0] not in moved]
    return remaining, [sample for sample in samples if task.classes(sample.truth)[0] in moved]


def _by_group(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> SplitSamples:
    """Move whole groups into the new part, as near to `count` and to the classes' proportions as possible."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [sample.group for sample in samples]
    folds = min(max(2, round(len(samples) / max(count, 1))), len(set(groups)))
    if folds < 2:
        return list(samples), []
    counts = Counter(label for sample in samples for label in task.classes(sample.truth))
    strata = [task.stratum(sample.truth, counts) for sample in samples]
    if max(Counter(strata).values()) < folds:
        strata = [""] * len(samples)  # too few samples of each to stratify
    with warnings.catch_warnings():
        # scikit-learn warns about a class with fewer images than folds.
        warnings.simplefilter("ignore", UserWarning)
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(samples, strata, groups)
        candidates = [set(fold.tolist()) for _, fold in split]
    fold = min(
        candidates, key=lambda fold: (_count_lost_classes(samples, fold, task), not fold, abs(len(fold) - count))
    )
    return [s for i, s in enumerate(samples) if i not in fold], [s for i, s in enumerate(samples) if i in fold]


def _count_lost_classes(samples: Sequence[Sample], fold: Container[int], task: TrainingTask) -> int:
    """Count the classes that only the fold has; training would not see them."""
    inside, outside = set[str](), set[str]()
    for number, sample in enumerate(samples):
        (inside if number in fold else outside).update(task.classes(sample.truth))
    return len(inside - outside)


def _stratified(
    samples: Sequence[Sample], count: int, task: TrainingTask, seed: int, digests: Mapping[Path, str]
) -> SplitSamples:
    """Split in proportion to the classes. Copies of one image stay together, so that no test image was trained on."""
    from sklearn.model_selection import train_test_split

    first_copy = {digests[sample.path]: sample for sample in reversed(samples)}
    unique = [sample for sample in samples if first_copy[digests[sample.path]] is sample]
    counts = Counter(label for sample in samples for label in task.classes(sample.truth))
    strata = [task.stratum(sample.truth, counts) for sample in unique]
    size = round(count * len(unique) / len(samples))
    # A stratum of one sample cannot be in both parts. Combine these strata; a single one joins a large stratum.
    rare = Counter(strata)
    strata = [stratum if rare[stratum] > 1 else "" for stratum in strata]
    if Counter(strata)[""] == 1:
        strata[strata.index("")] = rare.most_common(1)[0][0]
    minimum = len(set(strata))
    if not minimum <= size <= len(unique) - minimum:
        return list(samples), []
    _, selected = train_test_split(unique, test_size=size, random_state=seed, stratify=strata)
    moved = {digests[sample.path] for sample in selected}
    remaining = [sample for sample in samples if digests[sample.path] not in moved]
    return remaining, [sample for sample in samples if digests[sample.path] in moved]
