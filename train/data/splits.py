"""Reads the data of a run, checks all of it before the training, and splits it into parts."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from train.config.sections import DataConfig
from train.data import SUMMARY_FILE
from train.data.near_duplicates import Thumbnails
from train.data.splitting import keep_most_common_classes, split_parts
from train.tasks.base import TrainingTask
from tritonkit.errors import DataError, Problem, SpecError
from tritonkit.evaluation.label_checks import (
    find_leaks,
)
from tritonkit.evaluation.labelled_images import (
    LoadedData,
    check_files,
    check_labels,
    raise_if_any,
    read_data,
    show_notes,
)
from tritonkit.evaluation.provenance import PROVENANCE, UNKNOWN, Provenance, read_provenance
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import IMAGE, Sample, Truth, listed
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.spec import TaskSpec
from tritonkit.system.console import warn


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
    provenance: Provenance = UNKNOWN

    def save(self, folder: Path, task: TrainingTask) -> None:
        """Write a CSV with absolute paths for each part that has images, and `data.json` with a summary."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            samples: tuple[Sample, ...] = getattr(self, part)
            rows = [
                {
                    IMAGE: str(s.path.absolute()),
                    **({} if self.group is None else {self.group: s.group}),
                    **task.row(s.truth, self.task_spec),
                }
                for s in samples
            ]
            if rows:
                with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
        summary = {
            "fingerprint": self.fingerprint,
            "labels": self.task_spec.labels,
            "pictures": {part: len(getattr(self, part)) for part in PARTS},
        }
        if self.group is not None:
            counts = {part: len({sample.group for sample in getattr(self, part)}) for part in PARTS}
            summary |= {"group": self.group, "groups": counts}
        # The tables of the parts have this column; other columns of the data are not kept.
        provenance = self.provenance.model_copy(update={"keep_together": self.group})
        if provenance != UNKNOWN:
            summary[PROVENANCE] = provenance.model_dump(mode="json", exclude_none=True)
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class CheckedData:
    """The samples of a data set by part, read and checked, before missing parts are split off."""

    origin: str
    """The address of the data, for messages."""
    parts: Mapping[str, Sequence[Sample]]
    """By the names of PARTS; `train` holds the samples that missing parts are split off from."""
    task_spec: TaskSpec
    digests: Mapping[Path, str]
    """The sha256 of each image."""
    thumbnails: Thumbnails
    group: str | None
    unit: str
    """What stays together in a split: `picture`, `group` or `class`."""
    provenance: Provenance

    def splits(self, parts: Mapping[str, Sequence[Sample]], task: TrainingTask) -> Splits:
        """Return parts of these samples as splits."""
        ordered = {part: tuple(sorted(parts[part], key=lambda sample: sample.path)) for part in PARTS}
        lines = [
            f"{hashlib.sha256(task.fingerprint_bytes(sample.truth)).hexdigest()}\t{self.digests[sample.path]}\n"
            for part in ordered.values()
            for sample in part
        ]
        fingerprint = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
        return Splits(
            **ordered,
            task_spec=self.task_spec,
            fingerprint=fingerprint,
            group=self.group,
            provenance=self.provenance,
        )

    def warn_of_near_duplicates(self, parts: Mapping[str, Sequence[Sample]]) -> None:
        """Print a warning on stderr that lists images which two of the parts show."""
        for warning in self.thumbnails.warnings(parts):
            warn(f"warning: {self.origin}: {warning}")


def read_splits(config: DataConfig, task: TrainingTask, seed: int) -> Splits:
    """Read, check and split the data; the same seed gives the same split.

    Raises DataError that lists all problems: missing or unreadable images and masks, classes without images, rows that
    cannot be used, labels that are missing in train, classes too small to split, an image in two parts.
    """
    ratios = {"test": config.test_ratio, "val": config.val_ratio}
    checked = read_checked(config, task, {part: ratio for part, ratio in ratios.items() if ratio})
    missing = {part: ratio for part, ratio in ratios.items() if ratio and not checked.parts[part]}
    parts = {part: list(checked.parts[part]) for part in PARTS}
    parts |= split_parts(parts["train"], missing, task, checked.unit, seed, checked.digests)
    raise_if_any(checked.origin, task.validate_splits(_truths(parts), checked.task_spec, minimum=1))
    checked.warn_of_near_duplicates(parts)
    return checked.splits(parts, task)


def read_checked(
    config: DataConfig, task: TrainingTask, required: Container[str] = (), val_in_train: bool = False
) -> CheckedData:
    """Read and check the data. required: the parts to split off from `train` if they are missing.

    val_in_train: the samples of `val` join those of `train`. Raises DataError that lists all problems.
    """
    provenance = read_provenance(local_path(config.path))
    unit = config.split_by or task.split_by
    if config.group is None and config.split_by is None and unit == "picture":
        config = config.model_copy(update={"group": provenance.keep_together})
    unit = "group" if config.group is not None else unit
    data = read_data(config, task)
    data.problems += _option_problems(config, task)
    if val_in_train:
        train, val = ({sample.path for sample in data.samples[part]} for part in ("train", "val"))
        both = [str(path) for path in sorted(train & val)]
        data.problems += listed(
            "images that are in two parts; keep each in one part", both, code="data.image_in_two_parts"
        )
        data.samples["train"] += data.samples["val"]
        data.samples["val"] = []
    if config.top_classes:
        data.samples = keep_most_common_classes(data.samples, task, config.top_classes)
        data.declared_labels = []
    task_spec = _task_spec(task, data)
    samples = [sample for part in data.samples.values() for sample in part]
    task.prepare([sample.truth for sample in samples])
    thumbnails = Thumbnails()
    digests, problems = check_files(samples, task, task_spec, thumbnails.add)
    data.problems += problems + find_leaks(data.samples, digests) + check_labels(samples, digests, task, data.notes)
    if task_spec is not None:
        missing = sum(part in required and not data.samples[part] for part in PARTS)
        by_picture = (config.split_by or task.split_by) == "picture"
        data.problems += task.validate_splits(_truths(data.samples), task_spec, minimum=1 + missing * by_picture)
    origin = public_name(str(config.path))
    raise_if_any(origin, data.problems)
    show_notes(origin, data.notes)
    if task_spec is None:
        raise DataError(f"{origin}: no training images", code="data.no_training_images")
    return CheckedData(origin, data.samples, task_spec, digests, thumbnails, config.group, unit, provenance)


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
    if config.ignore_index is not None and not task.dense:
        yield Problem("data.option_not_used", "data.ignore_index is for segmentation; leave it out")
    if config.mask_suffix and config.masks is None:
        yield Problem(
            "data.mask_suffix_without_masks",
            "data.mask_suffix needs a folder of masks; set data.masks, or leave it out",
        )


def _truths(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[Truth]]:
    return {part: [sample.truth for sample in samples[part]] for part in PARTS}


def _task_spec(task: TrainingTask, data: LoadedData) -> TaskSpec | None:
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
