"""The images of a self-labelling: labelled parts, calibration part, unlabelled ones, and a person's decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from train.config.loading import Config
from train.data.near_duplicates import Thumbnails
from train.data.splits import CheckedData, Splits, read_splits
from train.data.splitting import split_parts
from train.tasks import TrainingTask, training_task
from tritonkit.errors import ConfigError, DataError, InputError, Problem
from tritonkit.evaluation.labelled_images import check_files, raise_if_any
from tritonkit.evaluation.samples.sample import IMAGE, Sample, listed, search_notes, summarized
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.plugins import load_plugins
from tritonkit.remotes.addresses import public_name
from tritonkit.system.tables import TableError, path_of, table_rows

PARTS = ("train", "val", "test")
Decisions = Mapping[Path, str]
"""A label for each image that a person looked at; empty for one to leave out."""


@dataclass(frozen=True)
class AutolabelData:
    """All images, each in one role. `splits.test` is the holdout."""

    task: TrainingTask
    checked: CheckedData
    """The labelled parts, and the sha256 of each image, also of the unlabelled ones."""
    splits: Splits
    calibration: tuple[Sample, ...]
    unlabelled: tuple[Path, ...]
    fingerprint: str
    """Of the parts, truths, paths and contents of all images in their order, which that of the stored answers is."""
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the model's answers."""
        return self.splits.task_spec.labels

    def splits_with(self, train: Iterable[Sample]) -> Splits:
        """Return the splits of a training on these images, without the holdout."""
        return self.checked.splits({"base": (), "train": tuple(train), "val": self.splits.val, "test": ()}, self.task)


def read_autolabel_data(config: Config, unlabelled: Path, calibration: float, decisions: Decisions) -> AutolabelData:
    """Read and check all images.

    calibration: the share of the labelled training part that no model trains on. decisions: replace labels and give new
    ones; an image that got a label joins the training part. An unlabelled image with the content of another image
    is left out. Raises ConfigError for another task, DataError for data without a holdout or without images to label.
    """
    if config.task != "multiclass":
        raise ConfigError(
            f"task: {config.task}: train autolabel is for multiclass, where an image has one label",
            code="autolabel.task",
        )
    load_plugins(config.plugins)
    task = training_task(config)
    splits = read_splits(config.data, task, config.seed)
    if not splits.test:
        raise DataError(
            f"{config.data.path}: has no test part, which would show whether self-labelling helped; set "
            "data.test_ratio, or add a part test",
            code="autolabel.no_holdout",
        )
    search = PictureSearch()
    found = [Sample(path, None) for path in _folder_pictures(unlabelled, search)]
    thumbnails = Thumbnails()

    def keep(path: Path, image: Image.Image) -> None:
        if path in compared:
            thumbnails.add(path, image)

    compared = {sample.path for sample in (*found, *splits.test)}
    labelled = [sample for part in PARTS for sample in getattr(splits, part)]
    digests, problems = check_files([*labelled, *found], task, None, keep)
    known = {digests[sample.path] for sample in labelled}
    fresh, copies = _without_copies(found, digests, known)
    notes = [
        *search_notes(search),
        *(f"skipped: {problem}" for problem in problems),
        *summarized("unlabelled images left out, because another image has the same content", copies),
        *thumbnails.warnings({"unlabelled": [Sample(path, None) for path in fresh], "test": splits.test}),
    ]
    parts: dict[str, list[Sample]] = {"base": [], **{part: list(getattr(splits, part)) for part in PARTS}}
    parts["calibration"] = []
    if calibration:
        parts |= _split_calibration(parts["train"], calibration, task, config, digests)
    fresh = _apply(decisions, parts, fresh, digests, splits.task_spec.labels)
    if not fresh:
        raise DataError(
            f"{unlabelled}: no unlabelled images are left; expected images that are not among the labelled ones",
            code="autolabel.nothing_to_label",
        )
    origin = public_name(str(config.data.path))
    truths = {part: [sample.truth for sample in samples] for part, samples in parts.items()}
    # Decisions, and a calibration part of whole groups, may have taken all images of a class.
    raise_if_any(origin, task.validate_splits(truths, splits.task_spec, minimum=1))
    checked = CheckedData(
        origin, parts, splits.task_spec, digests, thumbnails, splits.group, "picture", splits.provenance
    )
    chosen = checked.splits(parts, task)
    roles = {**{part: getattr(chosen, part) for part in PARTS}, "calibration": parts["calibration"]}
    lines = [f"{part}\t{s.truth}\t{s.path.absolute()}\t{digests[s.path]}" for part in roles for s in roles[part]]
    lines += [f"\t\t{path.absolute()}\t{digests[path]}" for path in fresh]
    return AutolabelData(
        task=task,
        checked=checked,
        splits=chosen,
        calibration=tuple(parts["calibration"]),
        unlabelled=tuple(fresh),
        fingerprint=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        notes=tuple(notes),
    )


def read_decisions(path: Path) -> dict[Path, str]:
    """Read the decisions that the page exports: a CSV with `image_path` and `label`, which is empty to leave one out.

    Raises InputError.
    """
    try:
        (_, header), *rows = list(table_rows(path)) or [(1, [])]
    except TableError as error:
        raise InputError(f"{path}: {error}", code=error.code) from error
    if IMAGE not in header or "label" not in header:
        raise InputError(
            f"{path}: expected the columns {IMAGE} and label, as the page exports them, got {', '.join(header):.200}",
            code="autolabel.decision_columns",
        )
    path_column, label = header.index(IMAGE), header.index("label")
    filled = [row + [""] * (len(header) - len(row)) for _, row in rows]
    return {path_of(path.parent, row[path_column]).resolve(): row[label] for row in filled}


def _folder_pictures(folder: Path, search: PictureSearch) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--unlabelled {folder}: no such folder", code="autolabel.no_folder")
    return pictures_below(folder, search)


def _without_copies(
    found: Iterable[Sample], digests: Mapping[Path, str], known: Iterable[str]
) -> tuple[list[Path], list[str]]:
    """Return the readable images with contents that no other has, and the paths of the others."""
    fresh, copies, seen = list[Path](), list[str](), set(known)
    for sample in found:
        digest = digests.get(sample.path)
        if digest in seen:
            copies.append(str(sample.path))
        elif digest is not None:
            seen.add(digest)
            fresh.append(sample.path)
    return fresh, copies


def _split_calibration(
    train: Sequence[Sample], share: float, task: TrainingTask, config: Config, digests: Mapping[Path, str]
) -> dict[str, list[Sample]]:
    by = "group" if config.data.group is not None else "picture"
    try:
        return split_parts(train, {"calibration": share}, task, by, config.seed, digests)
    except DataError as error:
        raise DataError(
            f"--calibration {share:g}: cannot be split off {len(train)} training images so that each class is in "
            "both parts; choose another share, or label more images",
            code="autolabel.calibration_split",
        ) from error


def _apply(
    decisions: Decisions,
    parts: dict[str, list[Sample]],
    unlabelled: Sequence[Path],
    digests: Mapping[Path, str],
    labels: Sequence[str],
) -> list[Path]:
    """Change the labelled parts as decided, and return the images that stay unlabelled. Raises InputError."""
    by_path = {path.resolve(): path for path in digests}
    problems = listed(
        f"decisions with a label that the data do not have; the labels are {', '.join(labels):.200}",
        [f"{path}: {label}" for path, label in decisions.items() if label and label not in labels],
        code="autolabel.decision_label",
    )
    problems += listed(
        "decisions on images that are neither labelled nor unlabelled here",
        [str(path) for path in decisions if path not in by_path],
        code="autolabel.decision_picture",
    )
    _raise_if_any(problems)
    for samples in parts.values():
        decided = [replace(sample, truth=decisions.get(sample.path.resolve(), sample.truth)) for sample in samples]
        samples[:] = [sample for sample in decided if sample.truth]
    new = {path: decisions[path.resolve()] for path in unlabelled if path.resolve() in decisions}
    parts["train"] += [Sample(path, label) for path, label in new.items() if label]
    return [path for path in unlabelled if path not in new]


def _raise_if_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise InputError("\n".join(map(str, problems)), code=problems[0].code, problems=problems)
