"""Labelled pictures as they lie on a disk: class folders, pictures beside masks, a CSV, a JSON list, or one's own."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.errors import SpecError
from model.picture_files import PictureSearch, is_hidden, pictures_below
from model.plugins import find
from model.preprocess import SUFFIXES
from model.tables import TableError, path_of, table_rows
from train.mask_pairs import pair_masks
from train.part_names import not_classes
from train.samples import IMAGE, LABEL, MASK, Row, Table, listed, search_notes

Reader = Callable[[Path], Table]


def read_table(
    path: Path,
    reader: str | None = None,
    masks: Path | None = None,
    mask_column: str = MASK,
    columns: Mapping[str, str] = MappingProxyType({}),
    mask_suffix: str = "",
) -> Table:
    """Read a folder or file with the named reader, or with the one that fits what it is.

    columns: by column of ours, the name that the table has for it. Paths in the rows are resolved, and pictures that
    are missing or named twice are problems.
    """
    if masks is not None:
        return _checked(path, pair_masks(path, masks, mask_column, mask_suffix), mask_column)
    return _checked(path, _renamed(path, _reader(path, reader)(path), columns), mask_column)


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not is_hidden(child.name))


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows of the same columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _reader(path: Path, name: str | None) -> Reader:
    kind = name or ("folder" if path.is_dir() else path.suffix.lower().removeprefix("."))
    if kind in READERS:
        return READERS[kind]
    try:
        return _plugged_in(kind)
    except SpecError as error:
        came = "a file of another kind" if path.exists() else "nothing there"
        kinds = "a folder, a .csv or a .json file"
        problem = f"data.reader: {error}" if name else f"{path}: expected {kinds}, got {came}"
        return lambda _: Table(problems=[problem])


def _in_class_folders(root: Path) -> Table:
    table, empty, deep = Table(columns=[IMAGE, LABEL]), list[str](), list[str]()
    if not root.is_dir():
        return Table(problems=[f"{root}: no such folder"])
    folders = subfolders(root)
    if problems := not_classes(root, folders):
        return Table(problems=problems)
    if not folders:
        table.problems.append(f"{root}: has no class folders; expected {root.name}/<label>/<picture>")
    search = PictureSearch()
    for folder in folders:
        pictures = pictures_below(folder, search)
        table.rows += [(str(p), {IMAGE: p.relative_to(root), LABEL: folder.name}) for p in pictures]
        if not pictures and str(folder) not in search.errors:
            empty.append(str(folder))
        elif not any(picture.parent == folder for picture in pictures):
            deep.append(f"{folder}: {', '.join(child.name for child in subfolders(folder)):.80}")
    table.problems += listed("class folders without a picture, to be filled or deleted", empty)
    if len(deep) == len(folders) > 1 and len({tuple(child.name for child in subfolders(f)) for f in folders}) == 1:
        names = ", ".join(folder.name for folder in folders)
        table.problems.append(
            f"{root}: {names} hold the same folders, so they seem to be parts and not classes; name parts base, train, "
            "val and test"
        )
    table.notes += listed("class folders that hold only folders, whose pictures are all taken for the class", deep)
    table.notes += search_notes(search)
    return table


def _in_csv(path: Path) -> Table:
    try:
        lines = list(table_rows(path))
    except TableError as error:
        return Table(problems=[f"{path}: {error}"])
    if not lines:
        return Table(problems=[f"{path}: expected a header with {IMAGE} and the task's columns, got an empty file"])
    header = lines[0][1]
    if any(_PICTURE.search(cell) for cell in header):
        first = ",".join(header)
        cure = f"put one above, such as {IMAGE},{LABEL}, and a comma between columns"
        return Table(problems=[f"{path}: its first line is no header: {first!r:.120}; {cure}"])
    if twice := sorted({cell for cell in header if cell and header.count(cell) > 1}):
        return Table(problems=[f"{path}: its header names {', '.join(twice)} more than once"])
    problems = [] if len(lines) > 1 else [f"{path}: has a header and no rows"]
    long = [f"line {line}: {','.join(row)!r:.120}" for line, row in lines[1:] if any(row[len(header) :])]
    problems += listed(f"lines of {path} with more than the {len(header)} cells of its header", long)
    # A column without a name is the row number that pandas writes.
    columns = [(number, name) for number, name in enumerate(header) if name]
    rows: list[tuple[str, Row]] = [
        (f"line {line}", {name: row[number] if number < len(row) else "" for number, name in columns})
        for line, row in lines[1:]
    ]
    return Table([name for _, name in columns], rows, problems)


def _in_json(path: Path) -> Table:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return Table(problems=[f"{path}: not readable JSON in UTF-8 ({error})"])
    if not isinstance(document, list) or not document:
        came = "an empty list" if document == [] else type(document).__name__
        return Table(problems=[f"{path}: expected a list of objects with {IMAGE}, got {came}"])
    return _of_objects(path, [(f"entry {number}", entry) for number, entry in enumerate(document, start=1)])


def _in_json_lines(path: Path) -> Table:
    entries = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        return Table(problems=[f"{path}: not readable JSON lines in UTF-8 ({error})"])
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries.append((f"line {number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                return Table(problems=[f"{path}: line {number} is not JSON ({error})"])
    return _of_objects(path, entries) if entries else Table(problems=[f"{path}: is empty"])


def _of_objects(path: Path, places: Sequence[tuple[str, Any]]) -> Table:
    bad = [place for place, entry in places if not isinstance(entry, dict)]
    good: list[tuple[str, Row]] = [(place, entry) for place, entry in places if isinstance(entry, dict)]
    columns = list(dict.fromkeys(key for _, entry in good for key in entry))
    return Table(columns, good, listed(f"entries of {path} that are no object with {IMAGE}", bad))


def _plugged_in(name: str) -> Reader:
    """A reader of one's own: a function of the path that gives rows, mappings with `image_path`."""
    own: Callable[[Path], Iterable[Row]] = find("reader", name)

    def read(path: Path) -> Table:
        try:
            rows = [(f"row {number}", row) for number, row in enumerate(own(path), start=1)]
        except Exception as error:  # noqa: BLE001 - whatever the user's function does
            return Table(problems=[f"reader {name} failed on {path}: {type(error).__name__}: {error}"])
        good = [(place, row) for place, row in rows if isinstance(row, Mapping)]
        bad = sorted({place for place, _ in rows} - {place for place, _ in good})
        columns = list(dict.fromkeys(key for _, row in good for key in row))
        return Table(columns, good, listed(f"rows of reader {name} that are no mapping", bad))

    return read


READERS: dict[str, Reader] = {
    "folder": _in_class_folders,
    "csv": _in_csv,
    "tsv": _in_csv,
    "json": _in_json,
    "jsonl": _in_json_lines,
}
_LIKE_IMAGE = re.compile(r"(?:image|img|file|picture|photo)?_?(?:path|name|file|id|image|filename|filepath)", re.I)


_PICTURE = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))})\b", re.I)


def _renamed(path: Path, table: Table, columns: Mapping[str, str]) -> Table:
    """The table with our names of its columns, and a problem where a column is not there."""
    there = ", ".join(table.columns)
    columns = {ours: theirs for ours, theirs in columns.items() if theirs in table.columns or ours not in table.columns}
    lacking = [theirs for theirs in columns.values() if theirs not in table.columns]
    if table.columns and lacking:
        problem = f"{path}: no column `{lacking[0]}`, which data.columns names; the columns are: {there:.300}"
        return Table(problems=[*table.problems, problem])
    ours = {theirs: name for name, theirs in columns.items()}
    if taken := [name for name, theirs in columns.items() if name in table.columns and theirs != name]:
        # What data.columns names goes before a column that has our name by chance.
        table = _without(table, taken)
    names = [ours.get(name, name) for name in table.columns]
    rows: list[tuple[str, Row]] = [
        (place, {ours.get(name, name): value for name, value in row.items()}) for place, row in table.rows
    ]
    if names and IMAGE not in names:
        like = next((name for name in names if _LIKE_IMAGE.fullmatch(name)), names[0])
        hint = f"name the one of pictures with data.columns: {{image: {like}}} (or --column image={like})"
        return Table(problems=[*table.problems, f"{path}: no column `{IMAGE}`; the columns are: {there:.300}; {hint}"])
    return Table(names, rows, table.problems, table.notes)


def _without(table: Table, names: Sequence[str]) -> Table:
    rows: list[tuple[str, Row]] = [
        (place, {name: value for name, value in row.items() if name not in names}) for place, row in table.rows
    ]
    return Table([name for name in table.columns if name not in names], rows, table.problems, table.notes)


def _not_a_path(value: Any) -> str | None:
    """What is wrong with what should be a path, and be written into a CSV of UTF-8."""
    if not isinstance(value, str | Path):
        return "expected a path, got nothing" if value is None else f"expected a path, got {value!r:.80}"
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return f"{str(value)!a}: the name is not UTF-8; rename the file"
    return None


def _checked(path: Path, table: Table, mask_column: str) -> Table:
    """Resolve paths, and take out pictures that are missing or named twice."""
    base = path if path.is_dir() else path.parent
    kept: dict[Path, tuple[str, Row]] = {}
    missing, repeated, odd = list[str](), list[str](), list[str]()
    for place, row in table.rows:
        named = [row.get(IMAGE) or None, row.get(mask_column) or ""]
        if (fault := next(filter(None, map(_not_a_path, named)), None)) is not None:
            odd.append(f"{place}: {fault}")
            continue
        picture = path_of(base, str(row[IMAGE]))
        if not picture.is_file():
            missing.append(f"{place}: {picture}")
        elif picture in kept:
            repeated.append(f"{place}: {picture}, as {kept[picture][0]}")
        else:
            resolved = {mask_column: path_of(base, str(row[mask_column]))} if row.get(mask_column) else {}
            kept[picture] = (place, {**row, IMAGE: picture, **resolved})
    problems = listed(f"entries of {path} that name no file", odd)
    problems += listed(f"pictures of {path} that do not exist", missing, _hint_for_missing(path, missing))
    problems += listed(f"pictures that {path} names twice", repeated)
    rows = [kept[picture] for picture in sorted(kept)]
    return Table(table.columns, rows, table.problems + problems, table.notes)


def _hint_for_missing(table: Path, missing: Sequence[str]) -> str:
    """What may be wrong with all of the paths."""
    if missing and all(not Path(each).suffix for each in missing):
        return f"the names have no ending; write paths from the folder of {table.name}, such as pictures/a.jpg"
    return f"paths are taken from the folder of {table.name}" if missing and table.is_file() else ""
