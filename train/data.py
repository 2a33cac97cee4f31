"""The data of a run: read, checked as a whole before anything is trained, and split into parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.console import warn
from model.errors import DataError, SpecError
from model.preprocess import ImageError, decode_image, read_picture
from model.spec import ModelSpec, Question
from train.readers import READERS, read_table, subfolders, write_csv
from train.samples import IMAGE, MASK, Sample, Table, listed
from train.sections import DataConfig
from train.splitting import keep_most_common, split_off
from train.tasks.base import TrainingTask, natural

PARTS = ("base", "train", "val", "test")
FACTS_FILE = "data.json"


@dataclass(frozen=True)
class Splits:
    """The parts of the data, each sorted by path, what a model is asked that learns from them, and a fingerprint."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    base: tuple[Sample, ...]
    """Metric learning: the gallery that val and test are looked up in; without one, they are among themselves."""
    question: Question
    fingerprint: str
    """sha256 over the sorted truths and contents: equal for equal data, wherever it lies."""

    def save(self, folder: Path, task: TrainingTask) -> None:
        """Write a CSV for each part that has pictures, with absolute paths, and `data.json` with what they hold."""
        for part in PARTS:
            samples: tuple[Sample, ...] = getattr(self, part)
            rows = [{IMAGE: str(s.path.absolute()), **task.row(s.truth, self.question)} for s in samples]
            if rows:
                write_csv(folder / f"{part}.csv", rows)
        facts = {
            "fingerprint": self.fingerprint,
            "labels": self.question.labels,
            "pictures": {part: len(getattr(self, part)) for part in PARTS},
        }
        (folder / FACTS_FILE).write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@dataclass
class _Read:
    """Samples by part as they are read and checked, and everything found wrong with them."""

    samples: dict[str, list[Sample]]
    declared: list[str]
    problems: list[str]


def read_splits(config: DataConfig, task: TrainingTask, seed: int) -> Splits:
    """Read, check and split the data; the same seed gives the same split.

    Raises DataError listing everything that is wrong: missing or unreadable pictures and masks, classes without any,
    rows that cannot be used, labels that training lacks, classes too small to split, a picture in two parts.
    """
    read = _read(config, task)
    if config.split_by == "class" and task.split_by != "class":
        read.problems.append(f"data.split_by: class is for embeddings; a {task.name} model cannot tell unseen classes")
    if config.labels and not task.dense:
        read.problems.append(f"data.labels: names the numbers in masks; a {task.name} model has labels from its data")
    if config.top_classes:
        read.samples = keep_most_common(read.samples, task, config.top_classes)
        read.declared = []
    question = _question(task, read)
    task.survey([sample.truth for part in read.samples.values() for sample in part])
    digests, problems = _inspect([s for part in read.samples.values() for s in part], task, question)
    read.problems += problems + _leaks(read.samples, digests)
    missing = _to_split_off(config, read.samples)
    if question is not None:
        truths = {part: [sample.truth for sample in read.samples[part]] for part in PARTS}
        by_picture = (config.split_by or task.split_by) == "picture"
        read.problems += task.unfit(truths, question, least=1 + len(missing) * by_picture)
    _raise(config.path, read.problems)
    parts = {part: list(read.samples[part]) for part in PARTS}
    parts |= split_off(parts["train"], missing, task, config.split_by or task.split_by, seed, digests)
    ordered = {part: tuple(sorted(parts[part], key=lambda sample: sample.path)) for part in PARTS}
    if question is None:
        raise DataError(f"{config.path}: nothing to train on")
    return Splits(**ordered, question=question, fingerprint=_fingerprint(digests, task, ordered))


def read_labelled(path: Path, spec: ModelSpec, task: TrainingTask, masks: Path | None = None) -> list[Sample]:
    """Pictures to measure a model on: a CSV, JSON or folder, or its `test` or `val` part, with its `base` part.

    Raises DataError listing everything that is wrong, labels that the model does not know among it.
    """
    part = labelled_part(path)
    read = _read(DataConfig(path=path, masks=masks), task, ("base", part))
    samples = read.samples[part]
    task.survey([sample.truth for sample in samples])
    free = tuple(f"{name}=" for name, head in spec.heads.items() if not head.labels)
    labels = {label for sample in samples for label in task.classes(sample.truth)}
    unknown = {label for label in labels - set(_known(spec)) if not label.startswith(free)}
    problems = read.problems + _inspect(samples, task, spec)[1]
    if unknown and _known(spec):
        names = ", ".join(sorted(unknown, key=natural))
        problems.append(f"the model does not know these labels: {names:.400}; it knows {', '.join(_known(spec)):.400}")
    if not samples and not problems:
        problems.append(f"there are no pictures to measure in {part}")
    _raise(path, problems)
    return sorted([*samples, *read.samples["base"]], key=lambda sample: sample.path)


def labelled_part(path: Path) -> str:
    """The part of the data that a model is measured on: test, or else val, or all where there are no parts."""
    return next((part for part in ("test", "val") if _part(path, part)), "train")


def _known(spec: ModelSpec) -> list[str]:
    """Labels as `TrainingTask.classes` tells them; none of an embedding, which knows no classes."""
    return [*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)]


def _read(config: DataConfig, task: TrainingTask, parts: Sequence[str] = PARTS) -> _Read:
    tables = _tables(config, task, parts)
    read = _Read({part: [] for part in PARTS}, [], [p for table in tables.values() for p in table.problems])
    _tell(config.path, [note for table in tables.values() for note in table.notes])
    for part, table in tables.items():
        bad = {}
        for place, row in table.rows:
            lacking = [column for column in task.declared(table.columns) if column not in row]
            try:
                if lacking:
                    raise ValueError(f"there is no value for {', '.join(lacking[:5])}")  # noqa: TRY301
                read.samples[part].append(Sample(row[IMAGE], task.truth(row), gallery=part == "base"))
            except ValueError as error:
                bad[place] = str(error)
        read.problems += _unusable(part, bad)
    read.declared = list(task.declared(tables["train"].columns)) if "train" in tables else []
    return read


def _tell(origin: Path, notes: Sequence[str]) -> None:
    for note in notes:
        warn(f"note: {origin}: {note}")


def _unusable(part: str, bad: Mapping[str, str]) -> list[str]:
    """The rows with their reasons; a reason that all have is told once."""
    if len(bad) > 1 and len(set(bad.values())) == 1:
        return [f"{len(bad)} rows of {part} cannot be used: {next(iter(bad.values()))}"]
    return listed(f"rows of {part} that cannot be used", [f"{place}: {reason}" for place, reason in bad.items()])


def _tables(config: DataConfig, task: TrainingTask, parts: Sequence[str]) -> dict[str, Table]:
    """What each part of the data holds; all of it is the training part where there are no parts."""
    path, mask_column = config.path, task.truth_column if task.dense else MASK
    found = {part: place for part in PARTS if (place := _part(path, part)) is not None}
    if task.dense and path.is_dir() and not found and config.masks is None and config.reader is None:
        hint = "name their folder with data.masks (or --masks), or give a CSV of image_path and mask_path"
        return {"train": Table(problems=[f"{path}: where are the masks of these pictures? {hint}"])}
    if not set(found) & {"train", "val", "test"} or config.masks is not None:
        return {"train": read_table(path, config.reader, config.masks, mask_column)}
    tables = {
        part: read_table(place, config.reader, None, mask_column) for part, place in found.items() if part in parts
    }
    others = [folder.name for folder in subfolders(path) if folder.name not in PARTS]
    if others and "train" in tables and found["train"].is_dir():
        tables["train"].problems.append(
            f"{path}: besides {', '.join(PARTS)} there is also {', '.join(others)}; "
            "rename it to one of them, or move it away"
        )
    return tables


def _part(path: Path, part: str) -> Path | None:
    """A folder of class folders, or a table, that has the name of a part."""
    if (path / part).is_dir() and subfolders(path / part):
        return path / part
    files = [path / f"{part}.{suffix}" for suffix in READERS if (path / f"{part}.{suffix}").is_file()]
    return files[0] if files else None


def _question(task: TrainingTask, read: _Read) -> Question | None:
    """What a model is asked that learns from the training part; None, and a problem, where nothing can be."""
    truths = [sample.truth for sample in read.samples["train"]]
    if not truths:
        read.problems += [] if read.problems else ["there is nothing to train on: expected pictures, in a part `train`"]
        return None
    try:
        return task.question(truths, read.declared)
    except ValidationError as error:
        read.problems += [problem["msg"].removeprefix("Value error, ") for problem in error.errors()]
    except SpecError as error:
        read.problems.append(str(error))
    return None


def _inspect(
    samples: Sequence[Sample], task: TrainingTask, question: Question | None
) -> tuple[dict[Path, str], list[str]]:
    """Read and decode every picture and check its truth; the sha256 of each good one, and the problems."""

    def look(sample: Sample) -> tuple[str, str]:
        try:
            content = read_picture(sample.path)
            size = decode_image(content).size
        except ImageError as error:
            return "", f"{sample.path}: {error}"
        fault = task.problem(sample.truth, size, question) if question is not None else None
        return hashlib.sha256(content).hexdigest(), fault or ""

    results = _in_parallel(look, samples)
    digests = {sample.path: digest for sample, (digest, _) in zip(samples, results, strict=True) if digest}
    unreadable = [fault for digest, fault in results if fault and not digest]
    wrong = [fault for digest, fault in results if fault and digest]
    return digests, [
        *listed("pictures that cannot be read", unreadable),
        *listed("pictures whose truth cannot be used", wrong),
    ]


def _in_parallel(look: Callable[[Sample], tuple[str, str]], samples: Sequence[Sample]) -> list[tuple[str, str]]:
    from rich.console import Console
    from rich.progress import track

    with ThreadPoolExecutor() as pool:
        looked = pool.map(look, samples)
        console = Console(stderr=True)
        hidden = not console.is_terminal
        return list(track(looked, "checking pictures", len(samples), console=console, transient=True, disable=hidden))


def _leaks(samples: Mapping[str, Sequence[Sample]], digests: Mapping[Path, str]) -> list[str]:
    """The same picture in a part to learn from or look up in, and in one to measure on; or in both of the latter."""
    twice = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test"), ("base", "val"), ("base", "test")):
        places = {digests[sample.path]: sample.path for sample in samples[one] if sample.path in digests}
        twice += [
            f"{sample.path} in {other} is {places[digest]} in {one}"
            for sample in samples[other]
            if (digest := digests.get(sample.path)) in places
        ]
    return listed("pictures that are in two parts, where each belongs into one", twice)


def _to_split_off(config: DataConfig, samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    ratios = {"test": config.test_ratio, "val": config.val_ratio}
    return {part: ratio for part, ratio in ratios.items() if ratio and not samples[part]}


def _fingerprint(digests: Mapping[Path, str], task: TrainingTask, parts: Mapping[str, Sequence[Sample]]) -> str:
    samples = [sample for part in parts.values() for sample in part]
    lines = [f"{hashlib.sha256(task.content(s.truth)).hexdigest()}\t{digests[s.path]}\n" for s in samples]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _raise(origin: Path, problems: Sequence[str]) -> None:
    if problems:
        raise DataError(f"{origin}: the data cannot be used:\n  " + "\n  ".join(problems))
