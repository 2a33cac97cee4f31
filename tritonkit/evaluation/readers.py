"""Readers of labelled images: class folders, images with masks, CSV, JSON, JSON lines, and plugins."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tritonkit.errors import Problem, SpecError
from tritonkit.evaluation.provenance import IMAGES
from tritonkit.evaluation.samples.mask_pairs import pair_masks
from tritonkit.evaluation.samples.part_names import class_folder_problems
from tritonkit.evaluation.samples.sample import IMAGE, LABEL, MASK, Row, Table, listed, search_notes, summarized
from tritonkit.images.picture_files import PictureSearch, is_hidden, pictures_below
from tritonkit.images.preprocess import SUFFIXES
from tritonkit.plugins import find_plugin
from tritonkit.remotes import fetch_companions
from tritonkit.system.tables import TableError, path_of, table_rows

Reader = Callable[[Path], Table]


def read_table(
    path: Path,
    reader: str | None = None,
    masks: Path | None = None,
    mask_column: str = MASK,
    columns: Mapping[str, str] = MappingProxyType({}),
    mask_suffix: str = "",
) -> Table:
    """Read a folder or file with the named reader, or with the reader for its type.

    columns: the table's column name for each standard column. Paths in the rows are resolved; images that are missing
    or listed twice are problems.
    """
    try:
        if masks is not None:
            table = pair_masks(path, masks, mask_column, mask_suffix)
        else:
            table = _rename_columns(path, _find_reader(path, reader)(path), columns)
    except TableError as error:
        return Table(problems=[Problem(error.code, str(error))])
    return _resolve_paths(path, table, mask_column)


def subfolders(path: Path) -> list[Path]:
    """Return the folders in a folder, except hidden ones."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not is_hidden(child.name))


def _find_reader(path: Path, name: str | None) -> Reader:
    key = name or ("folder" if path.is_dir() else path.suffix.lower().removeprefix("."))
    if key in READERS:
        return READERS[key]
    try:
        return _plugin_reader(key)
    except SpecError as error:
        if name:
            raise TableError(f"data.reader: {error}", code=error.code) from error
        if not path.exists():
            raise TableError(
                f"{path}: does not exist; expected a folder, a .csv or a .json file", code="data.not_found"
            ) from error
        raise TableError(
            f"{path}: expected a folder, a .csv or a .json file, got another file type", code="data.file_type"
        ) from error


def _read_class_folders(root: Path) -> Table:
    if not root.is_dir():
        raise TableError(f"{root}: no such folder", code="data.not_found")
    table, empty, deep = Table(columns=[IMAGE, LABEL]), list[str](), list[str]()
    folders = subfolders(root)
    if problems := class_folder_problems(root, folders):
        return Table(problems=problems)
    if not folders:
        table.problems.append(
            Problem("data.no_class_folders", f"{root}: has no class folders; expected {root.name}/<label>/<image>")
        )
    search = PictureSearch()
    for folder in folders:
        pictures = pictures_below(folder, search)
        table.rows += [(str(p), {IMAGE: p.relative_to(root), LABEL: folder.name}) for p in pictures]
        if not pictures and str(folder) not in search.errors:
            empty.append(str(folder))
        elif not any(picture.parent == folder for picture in pictures):
            deep.append(f"{folder}: {', '.join(child.name for child in subfolders(folder)):.80}")
    table.problems += listed("class folders without images; fill or delete them", empty, code="data.empty_class_folder")
    if len(deep) == len(folders) > 1 and len({tuple(child.name for child in subfolders(f)) for f in folders}) == 1:
        names = ", ".join(folder.name for folder in folders)
        table.problems.append(
            Problem(
                "data.parts_as_classes",
                f"{root}: {names} contain the same folders, so they seem to be parts and not classes; name parts base, "
                "train, val and test",
            )
        )
    table.notes += summarized("class folders with only subfolders; all images below belong to the class", deep)
    table.notes += search_notes(search)
    return table


def _read_csv(path: Path) -> Table:
    try:
        lines = list(table_rows(path))
    except TableError as error:
        raise TableError(f"{path}: {error}", code="data.table_unreadable") from error
    if not lines:
        raise TableError(
            f"{path}: expected a header with {IMAGE} and the task's columns, got an empty file", code="data.empty_file"
        )
    header = lines[0][1]
    if any(_IMAGE_SUFFIX.search(cell) for cell in header):
        hint = f"add one, such as {IMAGE},{LABEL}, with commas between columns"
        raise TableError(
            f"{path}: its first line is not a header: {','.join(header)!r:.120}; {hint}", code="data.no_header"
        )
    if twice := sorted({cell for cell in header if cell and header.count(cell) > 1}):
        raise TableError(f"{path}: its header contains {', '.join(twice)} more than once", code="data.duplicate_column")
    problems = [] if len(lines) > 1 else [Problem("data.no_rows", f"{path}: has a header but no rows")]
    long = [f"line {line}: {','.join(row)!r:.120}" for line, row in lines[1:] if any(row[len(header) :])]
    problems += listed(
        f"lines of {path} with more cells than its header ({len(header)})", long, code="data.extra_cells"
    )
    # pandas writes row numbers as a column without a name.
    columns = [(number, name) for number, name in enumerate(header) if name]
    rows: list[tuple[str, Row]] = [
        (f"line {line}", {name: row[number] if number < len(row) else "" for number, name in columns})
        for line, row in lines[1:]
    ]
    return Table([name for _, name in columns], rows, problems)


def _read_json(path: Path) -> Table:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path}: not readable JSON in UTF-8 ({error})", code="data.not_json") from error
    if isinstance(document, dict):
        document = document.get(IMAGES, document)
    if not isinstance(document, list) or not document:
        got = "an empty list" if document == [] else type(document).__name__
        raise TableError(
            f"{path}: expected a list of objects with {IMAGE}, or an object with this list as {IMAGES}, got {got}",
            code="data.not_a_list",
        )
    entries = [(f"entry {number}", entry) for number, entry in enumerate(document, start=1)]
    return _table_of(entries, f"entries of {path} that are not objects with {IMAGE}", code="data.not_an_object")


def _read_json_lines(path: Path) -> Table:
    entries = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: not readable JSON lines in UTF-8 ({error})", code="data.not_json") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries.append((f"line {number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise TableError(f"{path}: line {number} is not JSON ({error})", code="data.not_json") from error
    if not entries:
        raise TableError(f"{path}: is empty", code="data.empty_file")
    return _table_of(entries, f"entries of {path} that are not objects with {IMAGE}", code="data.not_an_object")


def _table_of(entries: Sequence[tuple[str, Any]], heading: str, *, code: str) -> Table:
    """Build a table from entries, each with its place; those that are no rows are a problem with this heading."""
    bad = [place for place, entry in entries if not isinstance(entry, Mapping)]
    rows: list[tuple[str, Row]] = [(place, entry) for place, entry in entries if isinstance(entry, Mapping)]
    return Table(list(dict.fromkeys(key for _, row in rows for key in row)), rows, listed(heading, bad, code=code))


def _plugin_reader(name: str) -> Reader:
    """Return a plugin's reader: a function from a path to rows, which are mappings with `image_path`."""
    read_rows: Callable[[Path], Iterable[Row]] = find_plugin("reader", name)

    def read(path: Path) -> Table:
        try:
            rows = [(f"row {number}", row) for number, row in enumerate(read_rows(path), start=1)]
        except Exception as error:  # the user's function can raise anything
            raise TableError(
                f"reader {name} failed on {path}: {type(error).__name__}: {error}", code="data.reader_failed"
            ) from error
        return _table_of(rows, f"rows of reader {name} that are not mappings", code="data.not_a_mapping")

    return read


READERS: dict[str, Reader] = {
    "folder": _read_class_folders,
    "csv": _read_csv,
    "tsv": _read_csv,
    "json": _read_json,
    "jsonl": _read_json_lines,
}
_IMAGE_COLUMN = re.compile(r"(?:image|img|file|picture|photo)?_?(?:path|name|file|id|image|filename|filepath)", re.I)
_IMAGE_SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))})\b", re.I)


def _rename_columns(path: Path, table: Table, columns: Mapping[str, str]) -> Table:
    """Rename the table's columns to the standard names; a missing column is a problem."""
    existing = ", ".join(table.columns)
    # A column with the standard name is used if the configured one is missing.
    columns = {ours: theirs for ours, theirs in columns.items() if theirs in table.columns or ours not in table.columns}
    missing = [theirs for theirs in columns.values() if theirs not in table.columns]
    if table.columns and missing:
        problem = Problem(
            "data.missing_column",
            f"{path}: no column `{missing[0]}`, which data.columns lists; the columns are: {existing:.300}",
        )
        return Table(problems=[*table.problems, problem])
    standard_names = {theirs: name for name, theirs in columns.items()}
    # A column listed in data.columns replaces one that has the standard name by chance.
    replaced = [name for name, theirs in columns.items() if name in table.columns and theirs != name]
    names = [standard_names.get(name, name) for name in table.columns if name not in replaced]
    rows: list[tuple[str, Row]] = [
        (place, {standard_names.get(name, name): value for name, value in row.items() if name not in replaced})
        for place, row in table.rows
    ]
    if names and IMAGE not in names:
        candidate = next((name for name in names if _IMAGE_COLUMN.fullmatch(name)), names[0])
        hint = f"select the image column with data.columns: {{image: {candidate}}} (or --column image={candidate})"
        problem = Problem(
            "data.no_image_column", f"{path}: no column `{IMAGE}`; the columns are: {existing:.300}; {hint}"
        )
        return Table(problems=[*table.problems, problem])
    return Table(names, rows, table.problems, table.notes)


def _path_fault(value: Any) -> str | None:
    """Say why a value is not a path that can be written into a UTF-8 CSV; None if it is."""
    if not isinstance(value, str | Path):
        return "expected a path, got nothing" if value is None else f"expected a path, got {value!r:.80}"
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return f"{str(value)!a}: the name is not UTF-8; rename the file"
    return None


def _resolve_paths(path: Path, table: Table, mask_column: str) -> Table:
    """Resolve paths, and remove images that are missing or listed twice."""
    base = path if path.is_dir() else path.parent
    unique: dict[Path, tuple[str, Row]] = {}
    missing, repeated, invalid = list[str](), list[str](), list[str]()
    if base != path:
        cells = (row.get(column) for _, row in table.rows for column in (IMAGE, mask_column))
        fetch_companions(path, (str(cell) for cell in cells if cell))
    for place, row in table.rows:
        paths = [row.get(IMAGE) or None, row.get(mask_column) or ""]
        if (fault := next(filter(None, map(_path_fault, paths)), None)) is not None:
            invalid.append(f"{place}: {fault}")
            continue
        picture = path_of(base, str(row[IMAGE]))
        if not picture.is_file():
            missing.append(f"{place}: {picture}")
        elif picture in unique:
            repeated.append(f"{place}: {picture}, same as {unique[picture][0]}")
        else:
            mask = {mask_column: path_of(base, str(row[mask_column]))} if row.get(mask_column) else {}
            unique[picture] = (place, {**row, IMAGE: picture, **mask})
    hint = f"paths are relative to the folder of {path.name}" if missing and path.is_file() else ""
    if missing and all(not Path(each).suffix for each in missing):
        hint = f"the names have no extension; write paths relative to the folder of {path.name}, such as images/a.jpg"
    problems = listed(f"entries of {path} without a valid path", invalid, code="data.invalid_path")
    problems += listed(f"images of {path} that do not exist", missing, hint, code="data.missing_image")
    problems += listed(f"images that {path} lists twice", repeated, code="data.duplicate_image")
    rows = [unique[picture] for picture in sorted(unique)]
    return Table(table.columns, rows, table.problems + problems, table.notes)
