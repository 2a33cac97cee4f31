"""Labelled images: reads and checks the samples of a data set, for training and to measure a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tritonkit.errors import DataError, Problem
from tritonkit.evaluation.config import LabelledData
from tritonkit.evaluation.label_checks import check_label_spelling, find_contradicting_truths, find_images_in_two_groups
from tritonkit.evaluation.labelled_tables import LabelledRow, LabelledTable, part_paths, read_labelled_tables
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import IMAGE, RowError, Sample, listed
from tritonkit.evaluation.tasks import EvaluationTask, recorded_data
from tritonkit.evaluation.tasks.base import natural_sort_key
from tritonkit.images.preprocess import ImageError, decode_image, read_picture
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.system.console import track_progress, warn


@dataclass
class LoadedData:
    """Samples by part while they are read and checked, with the problems so far."""

    samples: dict[str, list[Sample]]
    declared_labels: list[str]
    problems: list[Problem]
    notes: list[str]


def read_labelled(path: Path, spec: ModelSpec, task: EvaluationTask, masks: Path | None = None) -> list[Sample]:
    """Read labelled images to measure a model: from a CSV, JSON or folder, or its `test` or `val` part, with `base`.

    Raises DataError that lists all problems, including labels that the model does not have.
    """
    part = labelled_part(path, masks)
    data = read_data(recorded_data(spec, path, masks), task, ("base", part))
    samples = data.samples[part]
    task.prepare([sample.truth for sample in samples])
    known = known_labels(spec)
    free = tuple(f"{name}=" for name, head in spec.heads.items() if not head.labels)
    labels = {label for sample in samples for label in task.classes(sample.truth)}
    unknown = {label for label in labels - set(known) if not label.startswith(free)}
    digests, unusable = check_files(samples, task, spec)
    problems = data.problems + unusable + check_labels(samples, digests, task, data.notes)
    if unknown and known and not task.open_set:
        names = ", ".join(sorted(unknown, key=natural_sort_key))
        text = f"the model does not have these labels: {names:.400}; it has {', '.join(known):.400}"
        problems.append(Problem("data.unknown_labels", text))
    if not samples and not problems:
        problems.append(Problem("data.no_images", f"there are no images to measure in {part}"))
    raise_if_any(path, problems)
    show_notes(path, data.notes)
    return sorted([*samples, *data.samples["base"]], key=lambda sample: sample.path)


def labelled_part(path: Path, masks: Path | None = None) -> str:
    """Return the part that a model is measured on: test, else val, else train, which stands for data without parts."""
    parts = part_paths(path, masks)
    return next((part for part in ("test", "val") if part in parts), "train")


def known_labels(spec: TaskSpec) -> list[str]:
    """Return the model's labels as `EvaluationTask.classes` writes them; none for an embedding."""
    return [*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)]


def read_data(config: LabelledData, task: EvaluationTask, parts: Sequence[str] = PARTS) -> LoadedData:
    """Read the samples of these parts without opening the images; problems are collected."""
    tables = read_labelled_tables(config, task, parts)
    data = LoadedData({part: [] for part in PARTS}, [], [], [])
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


def _sample(labelled: LabelledRow, table: LabelledTable, task: EvaluationTask, part: str) -> Sample:
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
            are_lines = all(place.startswith("line ") for place in reasons)
            places = ", ".join(place.removeprefix("line ") if are_lines else place for place in list(reasons)[:3])
            listing = f"{'lines ' if are_lines else ''}{places}{', …' if len(reasons) > 3 else ''}"
            text = f"{len(reasons)} rows{of_part} cannot be used ({listing}): {next(iter(reasons.values()))}"
            problems.append(Problem(code, text))
        else:
            items = [f"{place}: {reason}" for place, reason in reasons.items()]
            problems += listed(f"rows{of_part} that cannot be used", items, code=code)
    return problems


def check_labels(
    samples: Sequence[Sample], digests: Mapping[Path, str], task: EvaluationTask, notes: list[str]
) -> list[Problem]:
    """Report labels that differ in spelling, and images with two truths or in two groups; add to the notes."""
    problems, label_notes = check_label_spelling(label for sample in samples for label in task.classes(sample.truth))
    notes += label_notes
    return problems + find_contradicting_truths(samples, digests, task) + find_images_in_two_groups(samples, digests)


def check_files(
    samples: Sequence[Sample],
    task: EvaluationTask,
    task_spec: TaskSpec | None,
    on_image: Callable[[Path, Image.Image], None] | None = None,
) -> tuple[dict[Path, str], list[Problem]]:
    """Decode every image and check its truth. Return the sha256 of each readable image, and the problems.

    on_image: called with each decoded image, from several threads.
    """

    def check(sample: Sample) -> tuple[str, Problem | None]:
        """Return the sha256 of an image, empty if it cannot be read, and its problem."""
        try:
            content = read_picture(sample.path)
            image = decode_image(content)
        except ImageError as error:
            return "", Problem("data.image_unreadable", f"{sample.path}: {error}")
        if on_image is not None:
            on_image(sample.path, image)
        problem = task.truth_problem(sample.truth, image.size, task_spec) if task_spec is not None else None
        return hashlib.sha256(content).hexdigest(), problem

    with ThreadPoolExecutor() as pool:
        results = list(track_progress(pool.map(check, samples), "checking images", len(samples)))
    digests = {sample.path: digest for sample, (digest, _) in zip(samples, results, strict=True) if digest}
    unreadable = [problem.message for digest, problem in results if problem and not digest]
    bad_truths = [problem for digest, problem in results if problem and digest]
    problems = listed("images that cannot be read", unreadable, code="data.image_unreadable")
    for code in dict.fromkeys(problem.code for problem in bad_truths):
        messages = [problem.message for problem in bad_truths if problem.code == code]
        problems += listed("images whose truth cannot be used", messages, code=code)
    return digests, problems


def show_notes(origin: Path | str, notes: Sequence[str]) -> None:
    """Print the notes on the data of `origin` on stderr."""
    for note in notes:
        warn(f"note: {origin}: {note}")


def raise_if_any(origin: Path | str, problems: Sequence[Problem]) -> None:
    """Raise DataError that lists the problems, if there are any."""
    if problems:
        listing = "\n  ".join(map(str, problems))
        raise DataError(f"{origin}: the data cannot be used:\n  {listing}", code="data.invalid", problems=problems)
