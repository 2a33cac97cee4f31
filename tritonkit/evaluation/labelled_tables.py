"""Reads the tables of a data set by part; each row has its truth, its part and its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.errors import Problem
from tritonkit.evaluation.config import LabelledData
from tritonkit.evaluation.label_checks import without_decimal_zeros
from tritonkit.evaluation.provenance import read_provenance, table_of
from tritonkit.evaluation.readers import READERS, read_table, subfolders
from tritonkit.evaluation.samples.part_names import PARTS, is_split_column, misnamed_part_problems, part_of_name
from tritonkit.evaluation.samples.sample import COLUMNS, MASK, Row, RowError, Table, parse_bool
from tritonkit.evaluation.tasks.base import EvaluationTask
from tritonkit.remotes import local_path

WHOLE = ""
"""Name in place of a part, for a data set without parts."""


@dataclass(frozen=True)
class LabelledRow:
    """A row with its part and its group."""

    place: str
    row: Row
    part: str = ""
    group: str = ""
    error: RowError | None = None
    """Why the row cannot be used."""


@dataclass
class LabelledTable:
    """The rows of a part, with problems and notes."""

    columns: Sequence[str] = ()
    rows: list[LabelledRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_labelled_tables(
    config: LabelledData, task: EvaluationTask, parts: Sequence[str] = PARTS
) -> dict[str, LabelledTable]:
    """Read the table of each part; a data set without parts is read under WHOLE."""
    return {part: _labelled(table, config, task, part) for part, table in _tables(config, task, parts).items()}


def part_paths(path: Path, masks: Path | None = None) -> dict[str, Path]:
    """Find the parts of a data set: folders of class folders, folders of images with masks, or tables."""
    if masks is not None:
        return {part: path / part for part in PARTS if (path / part).is_dir() and (masks / part).is_dir()}
    paths = {}
    for part in PARTS:
        files = [path / f"{part}.{suffix}" for suffix in READERS if (path / f"{part}.{suffix}").is_file()]
        if (path / part).is_dir() and subfolders(path / part):
            paths[part] = path / part
        elif files:
            paths[part] = files[0]
    return paths


def _tables(config: LabelledData, task: EvaluationTask, parts: Sequence[str]) -> dict[str, Table]:
    path = local_path(config.path)
    path = path if config.reader else table_of(path)
    masks = None if config.masks is None else local_path(config.masks)
    if path.is_dir() and config.reader is None and (problems := _misnamed_part_problems(path, masks is not None)):
        return {WHOLE: Table(problems=problems)}
    paths_by_part = part_paths(path, masks)
    if task.dense and path.is_dir() and not paths_by_part and masks is None and config.reader is None:
        hint = "set data.masks (or --masks) to their folder, or use a CSV with image_path and mask_path"
        return {WHOLE: Table(problems=[Problem("data.no_masks", f"{path}: the images have no masks; {hint}")])}
    if not set(paths_by_part) & {"train", "val", "test"}:
        return {WHOLE: _read_part(config, path, masks, task)}
    tables = {
        part: _read_part(config, part_path, None if masks is None else masks / part, task)
        for part, part_path in paths_by_part.items()
        if part in parts
    }
    others = [folder.name for folder in subfolders(path) if folder.name not in PARTS]
    if others and "train" in tables and paths_by_part["train"].is_dir():
        tables["train"].problems.append(
            Problem(
                "data.unknown_part",
                f"{path}: besides {', '.join(PARTS)} there is also {', '.join(others)}; "
                "rename it to one of them, or move it away",
            )
        )
    return tables


def _read_part(config: LabelledData, path: Path, masks: Path | None, task: EvaluationTask) -> Table:
    columns = {COLUMNS[name]: theirs for name, theirs in config.columns.items()}
    mask_column = task.truth_column if task.dense else MASK
    return read_table(path, config.reader, masks, mask_column, columns, config.mask_suffix)


def _misnamed_part_problems(path: Path, has_masks: bool) -> list[Problem]:
    """Report folders and tables whose names are similar to the names of parts."""
    folders = [folder.name for folder in subfolders(path) if has_masks or subfolders(folder)]
    tables = [file.name for file in sorted(path.iterdir()) if file.suffix.lower().removeprefix(".") in READERS]
    return misnamed_part_problems(path, [*folders, *(name for name in tables if Path(name).stem not in PARTS)])


def _labelled(table: Table, config: LabelledData, task: EvaluationTask, part: str) -> LabelledTable:
    options = {"data.group": config.group, "data.split_column": config.split_column}
    used = {key: column for key, column in options.items() if column is not None}
    problems = list(table.problems)
    for key, column in used.items():
        if table.columns and column not in table.columns:
            existing = ", ".join(table.columns)
            problems.append(
                Problem(
                    "data.missing_column", f"no column `{column}`, which {key} sets; the columns are: {existing:.300}"
                )
            )
    if config.split_column is not None and part != WHOLE:
        problems.append(
            Problem(
                "data.split_column_with_parts",
                "data.split_column: the data is already divided into parts; leave it out",
            )
        )
    # The column of the groups is no label, also where the data is split in another way.
    unused = {*used.values(), read_provenance(local_path(config.path)).keep_together}
    columns = [column for column in table.columns if column not in unused]
    rows = [(place, {name: value for name, value in row.items() if name in columns}) for place, row in table.rows]
    for column in task.label_columns:
        rows = [(place, dict(row)) for place, row in without_decimal_zeros(rows, column)]
    problems += task.table_problems(columns, [row for _, row in rows])
    notes = [*table.notes, *_unused_column_notes(columns, config, task)] if part == WHOLE else table.notes
    if len(problems) > len(table.problems):
        return LabelledTable(columns, [], problems, notes)
    labelled = [
        _labelled_row(place, row, full, config) for (place, row), (_, full) in zip(rows, table.rows, strict=True)
    ]
    return LabelledTable(columns, labelled, problems, notes)


def _unused_column_notes(columns: Sequence[str], config: LabelledData, task: EvaluationTask) -> list[str]:
    """Report unused columns that seem to hold the part."""
    names = [name for name in columns if is_split_column(name) and name != task.truth_column]
    if config.split_column is not None or (config.labels is None and task.name == "multilabel"):
        return []
    return [f"column {name} is not used; to take the parts from it, set data.split_column: {name}" for name in names]


def _labelled_row(place: str, row: Row, full: Mapping[str, object], config: LabelledData) -> LabelledRow:
    group = "" if config.group is None else str(full.get(config.group) or "")
    part, error = "", None
    if config.group is not None and not group:
        error = RowError(f"there is no value for {config.group}", code="data.blank_cell")
    if (column := config.split_column) is not None and not (part := _part_of_cell(column, full.get(column)) or ""):
        error = RowError(
            f"expected train, val or test in column {column}, got {full.get(column)!r}", code="data.unknown_part_value"
        )
    return LabelledRow(place, row, part, group, error)


def _part_of_cell(column: str, value: object) -> str | None:
    """Return the part: `valid` is val; 1 in `is_train` is train, 0 is test; 1 in `is_valid` is val, 0 is train."""
    column_part, is_in_part = part_of_name(column), parse_bool(value)
    if column_part is None or is_in_part is None:
        return part_of_name(str(value))
    return column_part if is_in_part else ("test" if column_part == "train" else "train")
