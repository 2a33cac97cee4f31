"""The tables of a data set by part; each row has its truth, its part and its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.label_checks import whole_numbers
from train.part_names import PARTS, misnamed_parts, part_of_name, tells_split
from train.readers import READERS, read_table, subfolders
from train.samples import COLUMNS, MASK, Row, Table, fact
from train.sections import DataConfig
from train.tasks.base import TrainingTask

WHOLE = ""
"""In place of a part: a data set without parts."""


@dataclass(frozen=True)
class LabelledRow:
    """A row, and what its other columns say."""

    place: str
    row: Row
    part: str = ""
    group: str = ""
    fault: str = ""
    """Why it cannot be used."""


@dataclass
class LabelledTable:
    """The rows of a part, its problems, and its notes."""

    columns: Sequence[str] = ()
    rows: list[LabelledRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labelled_tables(config: DataConfig, task: TrainingTask, parts: Sequence[str] = PARTS) -> dict[str, LabelledTable]:
    """Read what each part of the data holds; where there are no parts, all of it under WHOLE."""
    tables = _tables(config, task, parts)
    return {part: _labelled(table, config, task, part) for part, table in tables.items()}


def places_of_parts(path: Path, masks: Path | None = None) -> dict[str, Path]:
    """The parts that a data set has: folders of class folders, or of pictures with masks, and tables."""
    if masks is not None:
        return {part: path / part for part in PARTS if (path / part).is_dir() and (masks / part).is_dir()}
    return {part: place for part in PARTS if (place := _place(path, part)) is not None}


def _place(path: Path, part: str) -> Path | None:
    if (path / part).is_dir() and subfolders(path / part):
        return path / part
    files = [path / f"{part}.{suffix}" for suffix in READERS if (path / f"{part}.{suffix}").is_file()]
    return files[0] if files else None


def _tables(config: DataConfig, task: TrainingTask, parts: Sequence[str]) -> dict[str, Table]:
    path, masks = config.path, config.masks
    if path.is_dir() and config.reader is None and (problems := _misnamed(path, masks is not None)):
        return {WHOLE: Table(problems=problems)}
    found = places_of_parts(path, masks)
    if task.dense and path.is_dir() and not found and masks is None and config.reader is None:
        hint = "name their folder with data.masks (or --masks), or give a CSV of image_path and mask_path"
        return {WHOLE: Table(problems=[f"{path}: where are the masks of these pictures? {hint}"])}
    if not set(found) & {"train", "val", "test"}:
        return {WHOLE: _read(config, path, masks, task)}
    tables = {
        part: _read(config, place, None if masks is None else masks / part, task)
        for part, place in found.items()
        if part in parts
    }
    others = [folder.name for folder in subfolders(path) if folder.name not in PARTS]
    if others and "train" in tables and found["train"].is_dir():
        tables["train"].problems.append(
            f"{path}: besides {', '.join(PARTS)} there is also {', '.join(others)}; "
            "rename it to one of them, or move it away"
        )
    return tables


def _read(config: DataConfig, path: Path, masks: Path | None, task: TrainingTask) -> Table:
    columns = {COLUMNS[name]: theirs for name, theirs in config.columns.items()}
    mask_column = task.truth_column if task.dense else MASK
    return read_table(path, config.reader, masks, mask_column, columns, config.mask_suffix)


def _misnamed(path: Path, has_masks: bool) -> list[str]:
    """Find folders and tables whose names are nearly those of parts."""
    folders = [folder.name for folder in subfolders(path) if has_masks or subfolders(folder)]
    tables = [file.name for file in sorted(path.iterdir()) if file.suffix.lower().removeprefix(".") in READERS]
    return misnamed_parts(path, [*folders, *(name for name in tables if Path(name).stem not in PARTS)])


def _labelled(table: Table, config: DataConfig, task: TrainingTask, part: str) -> LabelledTable:
    options = {"data.group": config.group, "data.split_column": config.split_column}
    used = {key: column for key, column in options.items() if column is not None}
    problems = list(table.problems)
    for key, column in used.items():
        if table.columns and column not in table.columns:
            there = ", ".join(table.columns)
            problems.append(f"no column `{column}`, which {key} names; the columns are: {there:.300}")
    if config.split_column is not None and part != WHOLE:
        problems.append("data.split_column: the data has parts of its own; leave it out")
    columns = [column for column in table.columns if column not in used.values()]
    rows = [(place, {name: value for name, value in row.items() if name in columns}) for place, row in table.rows]
    for column in task.label_columns:
        rows = [(place, dict(row)) for place, row in whole_numbers(rows, column)]
    problems += task.table_problems(columns, [row for _, row in rows])
    notes = [*table.notes, *_unused(columns, config, task)] if part == WHOLE else table.notes
    if len(problems) > len(table.problems):
        return LabelledTable(columns, [], problems, notes)
    labelled = [
        _labelled_row(place, row, full, config) for (place, row), (_, full) in zip(rows, table.rows, strict=True)
    ]
    return LabelledTable(columns, labelled, problems, notes)


def _unused(columns: Sequence[str], config: DataConfig, task: TrainingTask) -> list[str]:
    """Name the columns that seem to say the part and are not used."""
    names = [name for name in columns if tells_split(name) and name != task.truth_column]
    if config.split_column is not None or (config.labels is None and task.name == "multilabel"):
        return []
    return [f"column {name} is not used; data.split_column: {name} would take the parts from it" for name in names]


def _labelled_row(place: str, row: Row, full: Mapping[str, object], config: DataConfig) -> LabelledRow:
    group = "" if config.group is None else str(full.get(config.group) or "")
    part, fault = "", ""
    if config.group is not None and not group:
        fault = f"there is no value for {config.group}"
    if (column := config.split_column) is not None and not (part := _part_in(column, full.get(column)) or ""):
        fault = f"expected train, val or test in column {column}, got {full.get(column)!r}"
    return LabelledRow(place, row, part, group, fault)


def _part_in(column: str, value: object) -> str | None:
    """`valid` is val; 1 in `is_train` is train and 0 test, 1 in `is_valid` is val and 0 train."""
    meant, holds = part_of_name(column), fact(value)
    if meant is None or holds is None:
        return part_of_name(str(value))
    return meant if holds else ("test" if meant == "train" else "train")
