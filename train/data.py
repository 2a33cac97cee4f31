"""The data of a run: read, checked as a whole before anything is trained, and split into three parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError
from model.preprocess import ImageError, decode_image, read_picture
from train.config import DataConfig
from train.samples import Found, Sample, listed, natural, read_samples, subfolders, write_csv

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The three parts of the data, each sorted by path, and a fingerprint of all of it."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    fingerprint: str
    """sha256 over the sorted labels and contents: equal for equal data, wherever it lies."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the training part, in natural order: 2 before 10."""
        return tuple(sorted({sample.label for sample in self.train}, key=natural))

    def save(self, folder: Path) -> None:
        """Write `train.csv`, `val.csv` and `test.csv`, with absolute paths."""
        for part in PARTS:
            write_csv(folder / f"{part}.csv", getattr(self, part))


def read_splits(config: DataConfig, seed: int) -> Splits:
    """Read, check and split the data; the same seed gives the same split.

    Raises DataError listing everything that is wrong: missing or unreadable pictures, classes without any, rows
    that cannot be used, labels that training lacks, classes too small to split.
    """
    found = _read_parts(config.path)
    samples = {part: found[part].samples if part in found else [] for part in PARTS}
    digests, unreadable = _inspect([sample for part in samples.values() for sample in part])
    problems = [problem for part in found.values() for problem in part.problems]
    problems += unreadable + _strangers(samples) + _too_small(samples)
    _raise(config.path, problems)
    return Splits(**_split(samples, config, seed), fingerprint=_fingerprint(digests))


def read_labelled(path: Path, labels: Sequence[str]) -> list[Sample]:
    """Pictures to measure a model on: a CSV, a folder of class folders, or its `test/` part.

    Raises DataError listing everything that is wrong, labels that the model does not know among it.
    """
    parts = _read_parts(path)
    found = parts.get("test", parts["train"])
    unknown = sorted({sample.label for sample in found.samples} - set(labels), key=natural)
    strangers = [f"the model does not know these labels: {', '.join(unknown)}; it knows {', '.join(labels)}"]
    _raise(path, found.problems + _inspect(found.samples)[1] + (strangers if unknown else []))
    return found.samples


def _read_parts(path: Path) -> dict[str, Found]:
    """What each part of the data holds; all of it is the training part where there are no parts."""
    if not (path / "train").is_dir() or not subfolders(path / "train"):
        return {"train": read_samples(path)}
    found = {part: read_samples(path / part) for part in PARTS if (path / part).is_dir()}
    others = [folder.name for folder in subfolders(path) if folder.name not in PARTS]
    if others:
        found["train"].problems.append(f"{path}: besides {', '.join(PARTS)} there is also {', '.join(others)}")
    return found


def _inspect(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """Read and decode every picture; returns a line of label and sha256 for each good one, and the problems."""
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_digest_or_fault, samples))
    return [digest for digest, _ in results if digest], listed(
        "pictures that cannot be read", [fault for _, fault in results if fault]
    )


def _digest_or_fault(sample: Sample) -> tuple[str, str]:
    try:
        content = read_picture(sample.path)
        decode_image(content)
    except ImageError as error:
        return "", f"{sample.path}: {error}"
    return f"{sample.label}\t{hashlib.sha256(content).hexdigest()}\n", ""


def _fingerprint(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _strangers(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    known = {sample.label for sample in samples["train"]}
    unknown = {part: {sample.label for sample in samples[part]} - known for part in ("val", "test")}
    return [
        f"{part} has labels that train lacks: {', '.join(sorted(labels, key=natural))}"
        for part, labels in unknown.items()
        if labels
    ]


def _too_small(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Classes that cannot give a picture to each part that must be split off."""
    least = 1 + sum(not samples[part] for part in ("val", "test"))
    counts = Counter(sample.label for sample in samples["train"])
    small = [f"{label} has {counts[label]}" for label in sorted(counts, key=natural) if counts[label] < least]
    return listed(f"classes too small to be split, which takes {least} pictures each", small)


def _split(samples: Mapping[str, Sequence[Sample]], config: DataConfig, seed: int) -> dict[str, tuple[Sample, ...]]:
    train, whole = list(samples["train"]), len(samples["train"])
    parts = {part: list(samples[part]) for part in ("val", "test")}
    for part, ratio in (("test", config.test_ratio), ("val", config.val_ratio)):
        if not parts[part]:
            train, parts[part] = _split_off(train, round(whole * ratio), part, seed)
    return {name: tuple(sorted(part)) for name, part in {"train": train, **parts}.items()}


def _split_off(samples: list[Sample], count: int, part: str, seed: int) -> tuple[list[Sample], list[Sample]]:
    from sklearn.model_selection import train_test_split

    labels = [sample.label for sample in samples]
    try:
        kept, taken = train_test_split(samples, test_size=count, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{count} of {len(samples)} pictures cannot become {part}: {error}") from error
    if lost := set(labels) - {sample.label for sample in kept}:
        raise DataError(f"splitting off {part} leaves no pictures of {', '.join(lost)}; lower data.{part}_ratio")
    return kept, taken


def _raise(origin: Path, problems: Sequence[str]) -> None:
    if problems:
        raise DataError(f"{origin}: the data cannot be used:\n  " + "\n  ".join(problems))
