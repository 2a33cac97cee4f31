"""Checks for contradicting truths, and for labels that differ only in spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.sample import Row, Sample, listed, summarized
from tritonkit.evaluation.tasks.base import EvaluationTask, natural_sort_key

_NUMBER = re.compile(r"(^|=)\+?(-?)0*([0-9]+)(?:\.0*)?$")
_NO_LABEL = {"nan", "none", "null", "n/a", "<na>"}
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def without_decimal_zeros(rows: Sequence[tuple[str, Row]], column: str) -> list[tuple[str, Row]]:
    """Write 0 for 0.0 if the whole column consists of such numbers, as some programs write integers."""
    values = [_WHOLE.fullmatch(str(row.get(column))) for _, row in rows]
    if not all(values):
        return list(rows)
    return [(place, {**row, column: match[1]}) for (place, row), match in zip(rows, values, strict=True) if match]


def check_label_spelling(labels: Iterable[str]) -> tuple[list[Problem], list[str]]:
    """Return a problem for labels that differ only in spelling, and notes on suspicious labels."""
    same, same_letters = dict[str, list[str]](), dict[str, list[str]]()
    for label in sorted(set(labels), key=natural_sort_key):
        normalized = " ".join(_NUMBER.sub(r"\1\2\3", unicodedata.normalize("NFC", label).strip()).split())
        same.setdefault(normalized, []).append(label)
        same_letters.setdefault(normalized.casefold(), []).append(label)
    spellings = [_quoted(group) for group in same.values() if len(group) > 1]
    capitals = [_quoted(group) for group in same_letters.values() if len(group) > 1 and _quoted(group) not in spellings]
    missing = [f"'{label}'" for group in same.values() for label in group if label.casefold() in _NO_LABEL]
    return (
        listed("labels that differ only in spelling; use one spelling for each", spellings, code="data.label_spelling"),
        [
            *summarized("labels that differ only in capital letters, and are learned as different classes", capitals),
            *summarized("labels that look like a missing value, and are learned as a class", missing),
        ],
    )


def _quoted(labels: Sequence[str]) -> str:
    """Quote labels; labels that look the same are shown with their characters' codes."""
    looks = {unicodedata.normalize("NFC", label) for label in labels}
    texts = [label if len(looks) == len(labels) else label.encode("unicode_escape").decode() for label in labels]
    return " and ".join(f"'{label}'" for label in texts)


def find_contradicting_truths(
    samples: Sequence[Sample], digests: Mapping[Path, str], task: EvaluationTask
) -> list[Problem]:
    """Find images with the same content and different truths."""
    first: dict[str, Sample] = {}
    pairs = []
    for sample in samples:
        if digest := digests.get(sample.path):
            other = first.setdefault(digest, sample)
            if other is not sample and task.fingerprint_bytes(other.truth) != task.fingerprint_bytes(sample.truth):
                first_truth, second_truth = task.describe_truth(sample.truth), task.describe_truth(other.truth)
                pairs.append(f"{sample.path} ({first_truth}) is {other.path} ({second_truth})")
    return listed(
        "images that exist twice, with different truths; keep the right one", pairs, code="data.contradicting_truths"
    )


def find_leaks(samples: Mapping[str, Sequence[Sample]], digests: Mapping[Path, str]) -> list[Problem]:
    """Find images and groups that are in two parts."""
    images, groups = list[str](), list[str]()
    for first, second in (("train", "val"), ("train", "test"), ("val", "test"), ("base", "val"), ("base", "test")):
        paths = {digests[sample.path]: sample.path for sample in samples[first] if sample.path in digests}
        images += [
            f"{sample.path} in {second} is {paths[digest]} in {first}"
            for sample in samples[second]
            if (digest := digests.get(sample.path)) in paths
        ]
        shared = {sample.group for sample in samples[first]} & {sample.group for sample in samples[second]} - {""}
        groups += [
            f"{group} in {first} and {second}" for group in sorted(shared, key=natural_sort_key) if first != "base"
        ]
    return [
        *listed("images that are in two parts; keep each in one part", images, code="data.image_in_two_parts"),
        *listed("groups that are in two parts; keep each in one part", groups, code="data.group_in_two_parts"),
    ]


def find_images_in_two_groups(samples: Sequence[Sample], digests: Mapping[Path, str]) -> list[Problem]:
    """Find images that are in two groups."""
    first: dict[str, Sample] = {}
    pairs = []
    for sample in samples:
        other = first.setdefault(digests.get(sample.path, str(sample.path)), sample)
        if other.group != sample.group:
            pairs.append(f"{sample.path} of {sample.group} is {other.path} of {other.group}")
    return listed("images that are in two groups", pairs, code="data.image_in_two_groups")
