"""Labelled pictures, as they lie in a folder of class folders or in a CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.preprocess import pictures_below

HEADER = ["image_path", "label"]
SHOWN = 10
"""So many problems of a kind are listed; the rest is counted."""


@dataclass(frozen=True, order=True)
class Sample:
    """A picture and what it shows."""

    path: Path
    label: str


@dataclass
class Found:
    """What a reader found, and everything that is wrong with it."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_samples(path: Path) -> Found:
    """Read a folder of class folders, or a CSV with the header `image_path,label`; sorted by path."""
    if path.is_dir():
        return _in_class_folders(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return _in_csv(path)
    came = "a file that is not a .csv" if path.exists() else "nothing there"
    return Found(problems=[f"{path}: expected a folder of class folders or a .csv file, got {came}"])


def write_csv(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples, with absolute paths, in the form `read_samples` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows((sample.path.absolute(), sample.label) for sample in samples)


def natural(label: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10, and never compares a number with a word."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts]


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def listed(kind: str, items: Sequence[str]) -> list[str]:
    """Problems of one kind, as one entry: all of them, or the first few and their number."""
    if not items:
        return []
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return [f"{kind} ({len(items)}):" + "".join(f"\n    {item}" for item in [*items[:SHOWN], *more])]


def _in_class_folders(root: Path) -> Found:
    found, empty = Found(), list[str]()
    folders = subfolders(root)
    if not folders:
        found.problems.append(f"{root}: has no class folders; expected {root.name}/<label>/<picture>")
    for folder in folders:
        pictures = pictures_below(folder)
        found.samples += [Sample(picture, folder.name) for picture in pictures]
        if not pictures:
            empty.append(str(folder))
    found.problems += listed("classes without a picture", empty)
    return found


def _in_csv(path: Path) -> Found:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return Found(problems=[f"{path}: not a readable CSV in UTF-8 ({error})"])
    if not rows or rows[0] != HEADER:
        came = ",".join(rows[0]) if rows else "an empty file"
        return Found(problems=[f"{path}: expected the header {','.join(HEADER)}, got {came}"])
    if len(rows) == 1:
        return Found(problems=[f"{path}: has a header and no rows"])
    return _from_rows(path, rows[1:])


def _from_rows(path: Path, rows: Sequence[list[str]]) -> Found:
    found, first_line = Found(), dict[Path, int]()
    malformed, missing, repeated = list[str](), list[str](), list[str]()
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(HEADER) or not all(cell.strip() for cell in row):
            malformed.append(f"line {line}: {','.join(row)!r}")
            continue
        sample = Sample(path.parent / row[0].strip(), row[1].strip())
        if not sample.path.is_file():
            missing.append(f"line {line}: {sample.path}")
        elif sample.path in first_line:
            repeated.append(f"line {line}: {row[0]}, as on line {first_line[sample.path]}")
        else:
            first_line[sample.path] = line
            found.samples.append(sample)
    found.samples.sort()
    found.problems += listed(f"lines of {path} that are no path and label", malformed)
    found.problems += listed(f"pictures of {path} that do not exist", missing)
    found.problems += listed(f"pictures that {path} names twice", repeated)
    return found
