"""The data of a run: read, checked as a whole before anything is trained, and split into parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.console import warn
from model.errors import DataError, SpecError
from model.preprocess import ImageError, decode_image, read_picture
from model.spec import ModelSpec, TaskSpec
from train.label_checks import contradictions, groups_of_copies, leaks, near_labels
from train.labelled_tables import LabelledRow, LabelledTable, labelled_tables, places_of_parts
from train.part_names import PARTS
from train.readers import write_csv
from train.samples import IMAGE, Sample, Truth, listed
from train.sections import DataConfig
from train.splitting import keep_most_common, split_off
from train.tasks import recorded_data
from train.tasks.base import TrainingTask, natural

FACTS_FILE = "data.json"


@dataclass(frozen=True)
class Splits:
    """The parts of the data, each sorted by path, what a model is asked that learns from them, and a fingerprint."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    base: tuple[Sample, ...]
    """Metric learning: the gallery that val and test are looked up in; without one, they are among themselves."""
    question: TaskSpec
    fingerprint: str
    """sha256 over the sorted truths and contents: equal for equal data, wherever it lies."""
    group: str | None = None
    """The column whose groups stay in one part."""

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
        if self.group is not None:
            counts = {part: len({sample.group for sample in getattr(self, part)}) for part in PARTS}
            facts |= {"group": self.group, "groups": counts}
        (folder / FACTS_FILE).write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@dataclass
class _Read:
    """Samples by part as they are read and checked, and everything found wrong with them."""

    samples: dict[str, list[Sample]]
    declared: list[str]
    problems: list[str]
    notes: list[str]


def read_splits(config: DataConfig, task: TrainingTask, seed: int) -> Splits:
    """Read, check and split the data; the same seed gives the same split.

    Raises DataError listing everything that is wrong: missing or unreadable pictures and masks, classes without any,
    rows that cannot be used, labels that training lacks, classes too small to split, a picture in two parts.
    """
    read = _read(config, task)
    read.problems += _unfit_options(config, task)
    if config.top_classes:
        read.samples = keep_most_common(read.samples, task, config.top_classes)
        read.declared = []
    question = _question(task, read)
    samples = [sample for part in read.samples.values() for sample in part]
    task.prepare([sample.truth for sample in samples])
    digests, problems = _inspect(samples, task, question)
    read.problems += problems + leaks(read.samples, digests) + _checked_labels(samples, digests, task, read.notes)
    missing = _to_split_off(config, read.samples)
    if question is not None:
        by_picture = (config.split_by or task.split_by) == "picture"
        read.problems += task.validate_splits(_truths(read.samples), question, least=1 + len(missing) * by_picture)
    _raise(config.path, read.problems)
    _tell(config.path, read.notes)
    if question is None:
        raise DataError(f"{config.path}: nothing to train on")
    parts = {part: list(read.samples[part]) for part in PARTS}
    by = "group" if config.group is not None else config.split_by or task.split_by
    parts |= split_off(parts["train"], missing, task, by, seed, digests)
    _raise(config.path, task.validate_splits(_truths(parts), question, least=1))
    ordered = {part: tuple(sorted(parts[part], key=lambda sample: sample.path)) for part in PARTS}
    fingerprint = _fingerprint(digests, task, ordered)
    return Splits(**ordered, question=question, fingerprint=fingerprint, group=config.group)


def _unfit_options(config: DataConfig, task: TrainingTask) -> Iterator[str]:
    """Keys of `data` that mean nothing to this task."""
    if config.split_by == "class" and task.split_by != "class":
        yield f"data.split_by: class is for embeddings; a {task.name} model cannot tell unseen classes"
    if config.labels and not (task.dense or task.name == "multilabel"):
        yield "data.labels is for segmentation and multilabel; leave it out"
    for name in ("masks", "mask_values", "mask_suffix"):
        if getattr(config, name) and not task.dense:
            yield f"data.{name} is for segmentation; leave it out"
    if config.mask_suffix and config.masks is None:
        yield "data.mask_suffix is for a folder of masks; give data.masks too, or leave it out"


def _checked_labels(
    samples: Sequence[Sample], digests: Mapping[Path, str], task: TrainingTask, notes: list[str]
) -> list[str]:
    problems, alike = near_labels(label for sample in samples for label in task.classes(sample.truth))
    notes += alike
    return problems + contradictions(samples, digests, task) + groups_of_copies(samples, digests)


def _truths(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[Truth]]:
    return {part: [sample.truth for sample in samples[part]] for part in PARTS}


def _tell(origin: Path, notes: Sequence[str]) -> None:
    for note in notes:
        warn(f"note: {origin}: {note}")


def read_labelled(path: Path, spec: ModelSpec, task: TrainingTask, masks: Path | None = None) -> list[Sample]:
    """Pictures to measure a model on: a CSV, JSON or folder, or its `test` or `val` part, with its `base` part.

    Raises DataError listing everything that is wrong, labels that the model does not know among it.
    """
    part = labelled_part(path, masks)
    read = _read(recorded_data(spec, path, masks), task, ("base", part))
    samples = read.samples[part]
    task.prepare([sample.truth for sample in samples])
    free = tuple(f"{name}=" for name, head in spec.heads.items() if not head.labels)
    labels = {label for sample in samples for label in task.classes(sample.truth)}
    unknown = {label for label in labels - set(_known(spec)) if not label.startswith(free)}
    digests, unusable = _inspect(samples, task, spec)
    problems = read.problems + unusable + _checked_labels(samples, digests, task, read.notes)
    if unknown and _known(spec):
        names = ", ".join(sorted(unknown, key=natural))
        problems.append(f"the model does not know these labels: {names:.400}; it knows {', '.join(_known(spec)):.400}")
    if not samples and not problems:
        problems.append(f"there are no pictures to measure in {part}")
    _raise(path, problems)
    _tell(path, read.notes)
    return sorted([*samples, *read.samples["base"]], key=lambda sample: sample.path)


def labelled_part(path: Path, masks: Path | None = None) -> str:
    """The part of the data that a model is measured on: test, or else val, or all where there are no parts."""
    found = places_of_parts(path, masks)
    return next((part for part in ("test", "val") if part in found), "train")


def _known(spec: ModelSpec) -> list[str]:
    """Labels as `TrainingTask.classes` tells them; none of an embedding, which knows no classes."""
    return [*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)]


def _read(config: DataConfig, task: TrainingTask, parts: Sequence[str] = PARTS) -> _Read:
    tables = labelled_tables(config, task, parts)
    read = _Read({part: [] for part in PARTS}, [], [], [])
    for part, table in tables.items():
        read.problems += table.problems
        read.notes += table.notes
        bad = {}
        for labelled in table.rows:
            try:
                sample = _sample(labelled, table, task, part)
                read.samples[labelled.part or part or "train"].append(sample)
            except ValueError as error:
                bad[labelled.place] = str(error)
        read.problems += _unusable(part, bad)
    first = tables.get("train", tables.get(""))
    read.declared = [] if first is None else list(task.declared(first.columns))
    return read


def _sample(labelled: LabelledRow, table: LabelledTable, task: TrainingTask, part: str) -> Sample:
    """Raises ValueError for a row that cannot be used."""
    lacking = [column for column in task.declared(table.columns) if labelled.row.get(column) in (None, "")]
    if lacking:
        raise ValueError(f"there is no value for {', '.join(lacking[:5])}")
    if labelled.fault:
        raise ValueError(labelled.fault)
    truth = task.truth(labelled.row)
    return Sample(labelled.row[IMAGE], truth, gallery=part == "base", group=labelled.group)


def _unusable(part: str, bad: Mapping[str, str]) -> list[str]:
    """The rows with their reasons; a reason that all have is told once."""
    of = f" of {part}" if part else ""
    if len(bad) > 1 and len(set(bad.values())) == 1:
        return [f"{len(bad)} rows{of} cannot be used ({_places(list(bad))}): {next(iter(bad.values()))}"]
    return listed(f"rows{of} that cannot be used", [f"{place}: {reason}" for place, reason in bad.items()])


def _places(places: Sequence[str]) -> str:
    """The first few places, `lines 8, 15, 22, …` for lines."""
    more = ", …" if len(places) > 3 else ""
    kinds = {place.partition(" ")[0] for place in places}
    if kinds == {"line"}:
        return f"lines {', '.join(place.partition(' ')[2] for place in places[:3])}{more}"
    return ", ".join(places[:3]) + more


def _question(task: TrainingTask, read: _Read) -> TaskSpec | None:
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
    samples: Sequence[Sample], task: TrainingTask, question: TaskSpec | None
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
