"""Truths that contradict each other, and labels that differ by their spelling alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from train.samples import Row, Sample, listed
from train.tasks.base import TrainingTask, natural

_NUMBER = re.compile(r"(^|=)\+?(-?)0*([0-9]+)(?:\.0*)?$")
_NO_LABEL = {"nan", "none", "null", "n/a", "<na>"}
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def whole_numbers(rows: Sequence[tuple[str, Row]], column: str) -> list[tuple[str, Row]]:
    """The rows with 0 for 0.0 where a program wrote the whole column of numbers as fractions."""
    values = [_WHOLE.fullmatch(str(row.get(column))) for _, row in rows]
    if not all(values):
        return list(rows)
    return [(place, {**row, column: found[1]}) for (place, row), found in zip(rows, values, strict=True) if found]


def near_labels(labels: Iterable[str]) -> tuple[list[str], list[str]]:
    """Labels that are one but for their spelling, as a problem; and those that differ in capitals, as a note."""
    same, alike = dict[str, list[str]](), dict[str, list[str]]()
    for label in sorted(set(labels), key=natural):
        spelled = " ".join(_NUMBER.sub(r"\1\2\3", unicodedata.normalize("NFC", label).strip()).split())
        same.setdefault(spelled, []).append(label)
        alike.setdefault(spelled.casefold(), []).append(label)
    twice = [_pair(group) for group in same.values() if len(group) > 1]
    capitals = [_pair(group) for group in alike.values() if len(group) > 1 and _pair(group) not in twice]
    missing = [f"'{label}'" for group in same.values() for label in group if label.casefold() in _NO_LABEL]
    return (
        listed("labels that differ by their spelling alone; write each in one way", twice),
        [
            *listed("labels that differ in capital letters alone, and are learned as different", capitals),
            *listed("labels that look like a missing value, and are learned as a class", missing),
        ],
    )


def _pair(labels: Sequence[str]) -> str:
    """In quotes; what looks the same is told apart by its characters' codes."""
    looks = {unicodedata.normalize("NFC", label) for label in labels}
    shown = [label if len(looks) == len(labels) else label.encode("unicode_escape").decode() for label in labels]
    return " and ".join(f"'{label}'" for label in shown)


def contradictions(samples: Sequence[Sample], digests: Mapping[Path, str], task: TrainingTask) -> list[str]:
    """Find pictures with the same content and different truths."""
    first: dict[str, Sample] = {}
    found = []
    for sample in samples:
        if digest := digests.get(sample.path):
            other = first.setdefault(digest, sample)
            if other is not sample and task.content(other.truth) != task.content(sample.truth):
                first_truth, second_truth = task.describe_truth(sample.truth), task.describe_truth(other.truth)
                found.append(f"{sample.path} ({first_truth}) is {other.path} ({second_truth})")
    return listed("pictures that are there twice, with different truths; keep the right one", found)


def leaks(samples: Mapping[str, Sequence[Sample]], digests: Mapping[Path, str]) -> list[str]:
    """Find pictures and groups that are in two parts."""
    twice, groups = list[str](), list[str]()
    for one, other in (("train", "val"), ("train", "test"), ("val", "test"), ("base", "val"), ("base", "test")):
        places = {digests[sample.path]: sample.path for sample in samples[one] if sample.path in digests}
        twice += [
            f"{sample.path} in {other} is {places[digest]} in {one}"
            for sample in samples[other]
            if (digest := digests.get(sample.path)) in places
        ]
        shared = {sample.group for sample in samples[one]} & {sample.group for sample in samples[other]} - {""}
        groups += [f"{group} in {one} and {other}" for group in sorted(shared, key=natural) if one != "base"]
    problems = listed("pictures that are in two parts, where each belongs into one", twice)
    return problems + listed("groups that are in two parts, where each belongs into one", groups)


def groups_of_copies(samples: Sequence[Sample], digests: Mapping[Path, str]) -> list[str]:
    """Find pictures that are in two groups."""
    first: dict[str, Sample] = {}
    found = []
    for sample in samples:
        other = first.setdefault(digests.get(sample.path, str(sample.path)), sample)
        if other.group != sample.group:
            found.append(f"{sample.path} of {sample.group} is {other.path} of {other.group}")
    return listed("pictures that are in two groups", found)
