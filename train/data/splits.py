"""Reads the data of a run, checks all of it before the training, and splits it into parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from train.config.sections import DataConfig
from train.data.label_checks import (
    check_label_spelling,
    find_contradicting_truths,
    find_images_in_two_groups,
    find_leaks,
)
from train.data.labelled_tables import LabelledRow, LabelledTable, part_paths, read_labelled_tables
from train.data.readers import write_csv
from train.data.splitting import keep_most_common_classes, split_parts
from train.samples.part_names import PARTS
from train.samples.sample import IMAGE, RowError, Sample, Truth, listed
from train.tasks import recorded_data
from train.tasks.base import TrainingTask, natural_sort_key
from tritonkit.errors import DataError, Problem, SpecError
from tritonkit.images.preprocess import ImageError, decode_image, read_picture
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.system.console import warn

SUMMARY_FILE = "data.json"


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, each sorted by path, the task of a model trained on them, and a fingerprint."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    base: tuple[Sample, ...]
    """Metric learning: the gallery that val and test are searched in; if empty, they are searched in themselves."""
    task_spec: TaskSpec
    fingerprint: str
    """sha256 over the sorted truths and image contents: equal for equal data, independent of its location."""
    group: str | None = None
    """The column that defines groups; a group stays in one part."""

    def save(self, folder: Path, task: TrainingTask) -> None:
        """Write a CSV with absolute paths for each part that has images, and `data.json` with a summary."""
        for part in PARTS:
            samples: tuple[Sample, ...] = getattr(self, part)
            rows = [{IMAGE: str(s.path.absolute()), **task.row(s.truth, self.task_spec)} for s in samples]
            if rows:
                write_csv(folder / f"{part}.csv", rows)
        summary = {
            "fingerprint": self.fingerprint,
            "labels": self.task_spec.labels,
            "pictures": {part: len(getattr(self, part)) for part in PARTS},
        }
        if self.group is not None:
            counts = {part: len({sample.group for sample in getattr(self, part)}) for part in PARTS}
            summary |= {"group": self.group, "groups": counts}
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@dataclass
class _LoadedData:
    """Samples by part while they are read and checked, with the problems so far."""

    samples: dict[str, list[Sample]]
    declared_labels: list[str]
    problems: list[Problem]
    notes: list[str]


def read_splits(config: DataConfig, task: TrainingTask, seed: int) -> Splits:
    """Read, check and split the data; the same seed gives the same split.

    Raises DataError that lists all problems: missing or unreadable images and masks, classes without images, rows that
    cannot be used, labels that are missing in train, classes too small to split, an image in two parts.
    """
    data = _read_data(config, task)
    data.problems += _option_problems(config, task)
    if config.top_classes:
        data.samples = keep_most_common_classes(data.samples, task, config.top_classes)
        data.declared_labels = []
    task_spec = _task_spec(task, data)
    samples = [sample for part in data.samples.values() for sample in part]
    task.prepare([sample.truth for sample in samples])
    digests, problems = _check_files(samples, task, task_spec)
    data.problems += problems + find_leaks(data.samples, digests) + _check_labels(samples, digests, task, data.notes)
    missing = _missing_parts(config, data.samples)
    if task_spec is not None:
        by_picture = (config.split_by or task.split_by) == "picture"
        data.problems += task.validate_splits(_truths(data.samples), task_spec, minimum=1 + len(missing) * by_picture)
    _raise_if_any(config.path, data.problems)
    _show_notes(config.path, data.notes)
    if task_spec is None:
        raise DataError(f"{config.path}: no training images", code="data.no_training_images")
    parts = {part: list(data.samples[part]) for part in PARTS}
    by = "group" if config.group is not None else config.split_by or task.split_by
    parts |= split_parts(parts["train"], missing, task, by, seed, digests)
    _raise_if_any(config.path, task.validate_splits(_truths(parts), task_spec, minimum=1))
    ordered = {part: tuple(sorted(parts[part], key=lambda sample: sample.path)) for part in PARTS}
    fingerprint = _fingerprint(digests, task, ordered)
    return Splits(**ordered, task_spec=task_spec, fingerprint=fingerprint, group=config.group)


def _option_problems(config: DataConfig, task: TrainingTask) -> Iterator[Problem]:
    """Report keys of `data` that this task does not use."""
    if config.split_by == "class" and task.split_by != "class":
        yield Problem(
            "data.split_by_class",
            f"data.split_by: class is for embeddings; a {task.name} model cannot recognise unseen classes",
        )
    if config.labels and not (task.dense or task.name == "multilabel"):
        yield Problem("data.option_not_used", "data.labels is for segmentation and multilabel; leave it out")
    for name in ("masks", "mask_values", "mask_suffix"):
        if getattr(config, name) and not task.dense:
            yield Problem("data.option_not_used", f"data.{name} is for segmentation; leave it out")
    if config.mask_suffix and config.masks is None:
        yield Problem(
            "data.mask_suffix_without_masks",
            "data.mask_suffix needs a folder of masks; set data.masks, or leave it out",
        )


def _check_labels(
    samples: Sequence[Sample], digests: Mapping[Path, str], task: TrainingTask, notes: list[str]
) -> list[Problem]:
    problems, label_notes = check_label_spelling(label for sample in samples for label in task.classes(sample.truth))
    notes += label_notes
    return problems + find_contradicting_truths(samples, digests, task) + find_images_in_two_groups(samples, digests)


def _truths(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[Truth]]:
    return {part: [sample.truth for sample in samples[part]] for part in PARTS}


def _show_notes(origin: Path, notes: Sequence[str]) -> None:
    for note in notes:
        warn(f"note: {origin}: {note}")


def read_labelled(path: Path, spec: ModelSpec, task: TrainingTask, masks: Path | None = None) -> list[Sample]:
    """Read labelled images to measure a model: from a CSV, JSON or folder, or its `test` or `val` part, with `base`.

    Raises DataError that lists all problems, including labels that the model does not have.
    """
    part = labelled_part(path, masks)
    data = _read_data(recorded_data(spec, path, masks), task, ("base", part))
    samples = data.samples[part]
    task.prepare([sample.truth for sample in samples])
    free = tuple(f"{name}=" for name, head in spec.heads.items() if not head.labels)
    labels = {label for sample in samples for label in task.classes(sample.truth)}
    unknown = {label for label in labels - set(_known_labels(spec)) if not label.startswith(free)}
    digests, unusable = _check_files(samples, task, spec)
    problems = data.problems + unusable + _check_labels(samples, digests, task, data.notes)
    if unknown and (known := ", ".join(_known_labels(spec))):
        names = ", ".join(sorted(unknown, key=natural_sort_key))
        problems.append(
            Problem("data.unknown_labels", f"the model does not have these labels: {names:.400}; it has {known:.400}")
        )
    if not samples and not problems:
        problems.append(Problem("data.no_images", f"there are no images to measure in {part}"))
    _raise_if_any(path, problems)
    _show_notes(path, data.notes)
    return sorted([*samples, *data.samples["base"]], key=lambda sample: sample.path)


def labelled_part(path: Path, masks: Path | None = None) -> str:
    """Return the part that a model is measured on: test, else val, else train, which stands for data without parts."""
    parts = part_paths(path, masks)
    return next((part for part in ("test", "val") if part in parts), "train")


def _known_labels(spec: ModelSpec) -> list[str]:
    """Return the model's labels as `TrainingTask.classes` writes them; none for an embedding."""
    return [*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)]


def _read_data(config: DataConfig, task: TrainingTask, parts: Sequence[str] = PARTS) -> _LoadedData:
    tables = read_labelled_tables(config, task, parts)
    data = _LoadedData({part: [] for part in PARTS}, [], [], [])
    for part, table in tables.items():
        data.problems += table.problems
        data.notes += table.notes
        bad: dict[str, RowError] = {}
        for labelled in table.rows:
            try:
                sample = _sample(labelled, table, task, part)
                data.samples[labelled.part or part or "train"].append(sample)
            except RowError as error:
                bad[labelled.place] = error
            except ValueError as error:  # of a plugin's task
                bad[labelled.place] = RowError(str(error), code="data.row")
        data.problems += _row_problems(part, bad)
    first = tables.get("train", tables.get(""))
    data.declared_labels = [] if first is None else list(task.declared_labels(first.columns))
    return data


def _sample(labelled: LabelledRow, table: LabelledTable, task: TrainingTask, part: str) -> Sample:
    """Create a sample from a row, without opening its image. Raises ValueError if the row cannot be used."""
    empty = [column for column in task.declared_labels(table.columns) if labelled.row.get(column) in (None, "")]
    if empty:
        raise RowError(f"there is no value for {', '.join(empty[:5])}", code="data.blank_cell")
    if labelled.error is not None:
        raise labelled.error
    truth = task.truth(labelled.row)
    return Sample(labelled.row[IMAGE], truth, gallery=part == "base", group=labelled.group)


def _row_problems(part: str, bad: Mapping[str, RowError]) -> list[Problem]:
    """List bad rows with their reasons, by code; a reason that all rows share is written once."""
    of_part = f" of {part}" if part else ""
    problems: list[Problem] = []
    for code in dict.fromkeys(error.code for error in bad.values()):
        reasons = {place: str(error) for place, error in bad.items() if error.code == code}
        if len(reasons) > 1 and len(set(reasons.values())) == 1:
            reason = next(iter(reasons.values()))
            text = f"{len(reasons)} rows{of_part} cannot be used ({_format_places(list(reasons))}): {reason}"
            problems.append(Problem(code, text))
        else:
            items = [f"{place}: {reason}" for place, reason in reasons.items()]
            problems += listed(f"rows{of_part} that cannot be used", items, code=code)
    return problems


def _format_places(places: Sequence[str]) -> str:
    """Write the first few places; lines as `lines 8, 15, 22, …`."""
    more = ", …" if len(places) > 3 else ""
    kinds = {place.partition(" ")[0] for place in places}
    if kinds == {"line"}:
        return f"lines {', '.join(place.partition(' ')[2] for place in places[:3])}{more}"
    return ", ".join(places[:3]) + more


def _task_spec(task: TrainingTask, data: _LoadedData) -> TaskSpec | None:
    """Derive the model's task from the training part; None, with a problem added, if that is impossible."""
    truths = [sample.truth for sample in data.samples["train"]]
    if not truths:
        if not data.problems:
            data.problems.append(
                Problem("data.no_training_images", "there are no training images; expected images in a part `train`")
            )
        return None
    try:
        return task.task_spec(truths, data.declared_labels)
    except ValidationError as error:
        data.problems += [
            Problem("spec.invalid", details["msg"].removeprefix("Value error, ")) for details in error.errors()
        ]
    except SpecError as error:
        data.problems.append(Problem(error.code, str(error)))
    return None


_FileCheck = tuple[str, Problem | None]
"""The sha256 of an image, empty if it cannot be read, and its problem."""


def _check_files(
    samples: Sequence[Sample], task: TrainingTask, task_spec: TaskSpec | None
) -> tuple[dict[Path, str], list[Problem]]:
    """Decode every image and check its truth. Return the sha256 of each readable image, and the problems."""

    def check(sample: Sample) -> _FileCheck:
        try:
            content = read_picture(sample.path)
            size = decode_image(content).size
        except ImageError as error:
            return "", Problem("data.image_unreadable", f"{sample.path}: {error}")
        problem = task.truth_problem(sample.truth, size, task_spec) if task_spec is not None else None
        return hashlib.sha256(content).hexdigest(), problem

    results = _in_parallel(check, samples)
    digests = {sample.path: digest for sample, (digest, _) in zip(samples, results, strict=True) if digest}
    unreadable = [problem.message for digest, problem in results if problem and not digest]
    bad_truths = [problem for digest, problem in results if problem and digest]
    problems = listed("images that cannot be read", unreadable, code="data.image_unreadable")
    for code in dict.fromkeys(problem.code for problem in bad_truths):
        messages = [problem.message for problem in bad_truths if problem.code == code]
        problems += listed("images whose truth cannot be used", messages, code=code)
    return digests, problems


def _in_parallel(check: Callable[[Sample], _FileCheck], samples: Sequence[Sample]) -> list[_FileCheck]:
    from rich.console import Console
    from rich.progress import track

    with ThreadPoolExecutor() as pool:
        results = pool.map(check, samples)
        console = Console(stderr=True)
        hidden = not console.is_terminal
        return list(track(results, "checking images", len(samples), console=console, transient=True, disable=hidden))


def _missing_parts(config: DataConfig, samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Return the parts that must be split off from train, with their ratios."""
    ratios = {"test": config.test_ratio, "val": config.val_ratio}
    return {part: ratio for part, ratio in ratios.items() if ratio and not samples[part]}


def _fingerprint(digests: Mapping[Path, str], task: TrainingTask, parts: Mapping[str, Sequence[Sample]]) -> str:
    samples = [sample for part in parts.values() for sample in part]
    lines = [f"{hashlib.sha256(task.fingerprint_bytes(s.truth)).hexdigest()}\t{digests[s.path]}\n" for s in samples]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _raise_if_any(origin: Path, problems: Sequence[Problem]) -> None:
    if problems:
        listing = "\n  ".join(map(str, problems))
        raise DataError(f"{origin}: the data cannot be used:\n  {listing}", code="data.invalid", problems=problems)
