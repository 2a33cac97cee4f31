"""Labelled pictures as they lie on a disk: class folders, pictures beside masks, a CSV, a JSON list, or one's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import SpecError
from model.picture_files import PictureSearch, is_hidden, pictures_below
from model.plugins import find
from train.samples import IMAGE, LABEL, MASK, Row, Table, listed

Reader = Callable[[Path], Table]


def read_table(path: Path, reader: str | None = None, masks: Path | None = None, mask_column: str = MASK) -> Table:
    """Read a folder or file with the named reader, or with the one that fits what it is.

    Paths in the rows are resolved, and pictures that are missing or named twice are problems.
    """
    table = _beside_masks(path, masks, mask_column) if masks is not None else _reader(path, reader)(path)
    return _checked(path, table, mask_column)


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
        problem = f"data.reader: {error}" if name else f"{path}: expected a folder, a .csv or a .json file, got {came}"
        return lambda _: Table(problems=[problem])


def _in_class_folders(root: Path) -> Table:
    table, empty = Table(columns=[IMAGE, LABEL]), list[str]()
    if not root.is_dir():
        return Table(problems=[f"{root}: no such folder"])
    folders = subfolders(root)
    if not folders:
        table.problems.append(f"{root}: has no class folders; expected {root.name}/<label>/<picture>")
    search = PictureSearch()
    for folder in folders:
        pictures = pictures_below(folder, search)
        table.rows += [(str(p), {IMAGE: p.relative_to(root), LABEL: folder.name}) for p in pictures]
        if not pictures and str(folder) not in search.errors:
            empty.append(str(folder))
    table.problems += listed("class folders without a picture, to be filled or deleted", empty)
    table.notes += search_notes(search)
    return table


def search_notes(search: PictureSearch) -> list[str]:
    """What a search for pictures skipped, and what it could not read."""
    unread = [f"{path}: {why}" for path, why in search.errors.items()]
    skipped = search.skipped.sentence()
    return [*([skipped] if skipped else []), *listed("left out, because they cannot be read", unread)]


def _beside_masks(root: Path, masks: Path, column: str) -> Table:
    """Pair pictures with masks by their path without the extension."""
    problems = [f"{folder}: no such folder" for folder in (root, masks) if not folder.is_dir()]
    if problems:
        return Table(problems=problems)
    search = PictureSearch()
    by_name = {mask.relative_to(masks).with_suffix(""): mask for mask in pictures_below(masks, search)}
    table, alone = Table(columns=[IMAGE, column]), list[str]()
    for picture in pictures_below(root, search):
        name = picture.relative_to(root).with_suffix("")
        if (mask := by_name.pop(name, None)) is None:
            alone.append(str(picture))
        else:
            table.rows.append((str(picture), {IMAGE: picture.relative_to(root), column: mask.absolute()}))
    table.notes += search_notes(search)
    table.problems += listed("pictures without a mask of the same name", alone)
    table.problems += listed("masks without a picture of the same name", [str(mask) for mask in by_name.values()])
    return table


def _in_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return Table(problems=[f"{path}: not a readable CSV in UTF-8 ({error})"])
    if not rows or IMAGE not in rows[0]:
        came = ",".join(rows[0]) if rows else "an empty file"
        return Table(problems=[f"{path}: expected a header with {IMAGE} and the task's columns, got {came:.200}"])
    header = [cell.strip() for cell in rows[0]]
    if twice := sorted({cell for cell in header if header.count(cell) > 1}):
        return Table(problems=[f"{path}: its header names {', '.join(twice)} more than once"])
    lines = [(line, row) for line, row in enumerate(rows[1:], start=2) if row]
    whole = {line for line, row in lines if len(row) == len(header) and all(cell.strip() for cell in row)}
    bad = [f"line {line}: {','.join(row)!r:.120}" for line, row in lines if line not in whole]
    problems = listed(f"lines of {path} without a value for each of {len(header)} columns, {','.join(header):.80}", bad)
    if not lines:
        problems.append(f"{path}: has a header and no rows")
    good = ((line, map(str.strip, row)) for line, row in lines if line in whole)
    return Table(header, [(f"line {line}", dict(zip(header, row, strict=True))) for line, row in good], problems)


def _in_json(path: Path) -> Table:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return Table(problems=[f"{path}: not readable JSON in UTF-8 ({error})"])
    if not isinstance(document, list) or not document:
        came = "an empty list" if document == [] else type(document).__name__
        return Table(problems=[f"{path}: expected a list of objects with {IMAGE}, got {came}"])
    places = [(f"entry {number}", entry) for number, entry in enumerate(document, start=1)]
    bad = [place for place, entry in places if not isinstance(entry, dict) or not isinstance(entry.get(IMAGE), str)]
    good = [(place, entry) for place, entry in places if place not in set(bad)]
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
        good = [(place, row) for place, row in rows if isinstance(row, Mapping) and IMAGE in row]
        bad = sorted({place for place, _ in rows} - {place for place, _ in good})
        columns = list(dict.fromkeys(key for _, row in good for key in row))
        return Table(columns, good, listed(f"rows of reader {name} without {IMAGE}", bad))

    return read


READERS: dict[str, Reader] = {"folder": _in_class_folders, "csv": _in_csv, "json": _in_json}


def _not_a_path(value: Any) -> str | None:
    """What is wrong with what should be a path, and be written into a CSV of UTF-8."""
    if not isinstance(value, str | Path):
        return f"expected a path, got {value!r:.80}"
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
        named = [row[IMAGE], row.get(mask_column) or ""]
        if (fault := next(filter(None, map(_not_a_path, named)), None)) is not None:
            odd.append(f"{place}: {fault}")
            continue
        picture = base / Path(row[IMAGE])
        if not picture.is_file():
            missing.append(f"{place}: {picture}")
        elif picture in kept:
            repeated.append(f"{place}: {picture}, as {kept[picture][0]}")
        else:
            resolved = {mask_column: base / Path(row[mask_column])} if row.get(mask_column) else {}
            kept[picture] = (place, {**row, IMAGE: picture, **resolved})
    problems = listed(f"entries of {path} that name no file", odd)
    problems += listed(f"pictures of {path} that do not exist", missing)
    problems += listed(f"pictures that {path} names twice", repeated)
    return Table(table.columns, [kept[picture] for picture in sorted(kept)], table.problems + problems, table.notes)
