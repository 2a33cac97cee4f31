"""Everything `client infer` is asked to write, in one place: files of answers, pictures of masks, a contact sheet."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.filters import KEPT, left_out
from client.infer import Finish, Row
from client.outputs.answers import Answers, Say, answers_in
from client.outputs.drawings import (
    Draw,
    Drawings,
    check_folders,
    cutout_on,
    draw_mask,
    draw_overlay,
    with_unique_paths,
)
from client.outputs.formats import FORMATS
from client.outputs.gallery import ContactSheet
from client.outputs.leftovers import sweep_folder
from client.outputs.terms import JobSettings, terms_beside
from client.picture import Picture
from client.sources.finding import STDIN
from client.sources.lists import CSV_SUFFIXES
from client.sources.named import files_named
from model.errors import InputError
from model.files import check_can_write, check_is_html
from model.picture_files import SkippedFiles
from model.preprocess import Geometry
from model.runners import Runner
from model.spec import TensorSpec
from model.tasks import Answer, Task

DEFAULT_BACKGROUND = "white"


@dataclass(frozen=True)
class OutputConfig:
    """What is to be written."""

    outputs: Sequence[Path] = ()
    gallery: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    """For pictures of masks, by what is drawn."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    background: str | None = None
    overwrite: bool = False
    """Start over, whatever is there."""
    retry_failed: bool = False
    """Answer pictures again that got no answer in an earlier run."""

    @classmethod
    def checked(
        cls,
        outputs: Sequence[Path],
        gallery: Path | None,
        folders: Mapping[str, Path | None],
        background: str | None,
        given: Sequence[str],
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> OutputConfig:
        """Check what can be checked before anything is opened. Raises InputError.

        folders: for `mask`, `overlay` and `cutout`, where they go; None for what is not wanted.
        given: what is to be answered.
        """
        _check_files(outputs, gallery)
        _check_not_given(outputs, given)
        for option, is_given in {"--overwrite": overwrite, "--retry-failed": retry_failed}.items():
            if is_given and not outputs:
                raise InputError(f"{option}: is about the files of --output; say which")
        chosen = {key: folder for key, folder in folders.items() if folder is not None}
        check_folders(chosen, given)
        if background is not None and "cutout" not in chosen:
            raise InputError(f"--background {background}: is put behind cutouts; say where they go with --cutouts DIR")
        draws: dict[str, Draw] = {"mask": draw_mask, "overlay": draw_overlay}
        if "cutout" in chosen:
            draws["cutout"] = cutout_on(background or DEFAULT_BACKGROUND)
        drawn = {key: draws[key] for key in chosen}
        return cls(outputs, gallery, chosen, drawn, background, overwrite, retry_failed)

    def terms(self, terms: JobSettings) -> JobSettings:
        """The terms of a job with what its rows owe to what is wanted."""
        drawn = {key: str(folder) for key, folder in self.folders.items()}
        names = tuple(path.name for path in self.outputs)
        return terms.model_copy(update={"drawn": drawn, "background": self.background, "outputs": names})


def _check_files(outputs: Sequence[Path], gallery: Path | None) -> None:
    for path in outputs:
        if path.suffix not in FORMATS:
            raise InputError(f"{path}: answers are written as {', '.join(FORMATS)}; end the name in one of them")
    files = [*outputs]  # first, for what was typed is what is told
    files += [file for path in outputs for file in FORMATS[path.suffix].files(path) if file != path]
    files += map(terms_beside, outputs[:1])
    check_is_html(gallery)
    if gallery is not None:
        files.append(gallery)
    counts = Counter(path.absolute() for path in files)
    if twice := next((path for path, count in counts.items() if count > 1), None):
        raise InputError(f"{twice}: would be written twice; give each result a file of its own")
    check_can_write(*files)


def _check_not_given(outputs: Sequence[Path], given: Sequence[str]) -> None:
    """Refuse to write over what is to be read."""
    there = {_identity(path.stat()): path for path in outputs if path.is_file()}
    if not there:
        return
    endings = (*FORMATS, *CSV_SUFFIXES)
    read = {_identity(os.stat(file)): file for file in files_named(given) if file.lower().endswith(endings)}  # noqa: PTH116
    if STDIN in given:
        with contextlib.suppress(OSError, ValueError):  # closed, or no file
            read[_identity(os.fstat(sys.stdin.fileno()))] = STDIN
    if both := there.keys() & read.keys():
        one = both.pop()
        raise InputError(f"{there[one]}: is to be answered, as {read[one]}; give another --output")


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


@dataclass(frozen=True)
class OutputWriter:
    """What is written while a job goes on, and what of it had been written before."""

    finish: Finish
    """What is done with each answer, in any thread."""
    answers: Answers | None
    """The files of answers; None where none are wanted, so that nothing is known of earlier runs."""
    sheet: ContactSheet | None
    shown: set[str]
    """The names of the pictures of which the contact sheet needs a small copy."""
    placed: bool
    """Whether pictures are drawn, each below a folder where it has its place."""

    def missing(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        """Those of the pictures that are still to be answered, each in the place that it has in every run."""
        for picture in with_unique_paths(pictures) if self.placed else pictures:
            if self.answers and self.answers.has(picture.name):
                if self.sheet:
                    self.sheet.show_again(picture)
                continue
            if self.sheet and self.sheet.has_room:
                self.shown.add(picture.name)
            yield picture

    def left(self, total: int | None) -> int | None:
        """About how many of so many pictures are still to be answered."""
        return None if total is None else max(0, total - (self.answers.earlier if self.answers else 0))

    @property
    def earlier_failed(self) -> int:
        """How many pictures of this job got no answer before this client went on with it."""
        return self.answers.earlier_failed if self.answers else 0

    def document(self, tally: Tally, skipped: SkippedFiles) -> dict[str, Any]:
        """What `--json` prints: the rows of this client, how many are in the files since before, what was skipped."""
        rows = [row.as_json() for row in tally.rows]
        earlier = {"earlier": self.answers.earlier} if self.answers and self.answers.earlier else {}
        without = {"left_out": tally.left_out} if tally.left_out else {}
        passed = {"skipped": dict(skipped.kinds.most_common())} if skipped.kinds else {}
        return {"answered": tally.answered, "failed": tally.failed, **without, **earlier, **passed, "rows": rows}

    def summary(self, tally: Tally, origin: str, version: str) -> str:
        """The last line. version: of a served model the one that answers; empty for a file."""
        told = f"{tally.summary()}, by {by(origin, version)}"
        if not (self.answers and self.answers.earlier):
            return told
        if self.answers.nothing_new:
            return f"nothing new: {self.answers.path} holds all of these pictures, {self.answers.earlier} rows"
        before = f"; {self.answers.earlier} rows are from before"
        return f"{told}{before}"

    def write(self, row: Row) -> None:
        """Take a finished row, in order. Raises ExternalError when the disk is full."""
        if self.answers:
            self.answers.write(row)
        if self.sheet:
            self.sheet.write(row)


@contextmanager
def opened(wanted: OutputConfig, runner: Runner, task: Task, terms: JobSettings, say: Say) -> Iterator[OutputWriter]:
    """Begin to write what is wanted, or go on with it; files are whole when the block has ended without an error.

    terms: what the runner is asked; the files are added to it. say: told how to go on after an error.
    Raises InputError when the model's answers have not what is wanted, or a file cannot be.
    """
    example = example_answer(runner, task, terms.top)
    if wanted.draws and example.mask is None:
        asked = ", ".join(f"--{key}s" for key in wanted.draws)
        raise InputError(f"{asked}: the answers of {runner.spec.name} have no masks, its task is {runner.spec.task}")
    kept = {KEPT: True} if terms.filtered else {}
    example = replace(example, fields=example.fields | dict.fromkeys(wanted.folders, "") | kept)
    with contextlib.ExitStack() as stack:
        answers = None
        if wanted.outputs:
            again = (wanted.overwrite, wanted.retry_failed)
            answers = stack.enter_context(answers_in(wanted.outputs, wanted.terms(terms), example, say, *again))
            if answers.earlier:
                for folder in wanted.folders.values():
                    sweep_folder(folder)
        sheet = ContactSheet(task, answers.journal if answers else None) if wanted.gallery else None
        shown = set[str]()
        drawings = Drawings(wanted.draws, wanted.folders, shown)
        yield OutputWriter(drawings.finish, answers, sheet, shown, placed=bool(wanted.draws))
        if sheet and sheet.total and wanted.gallery:
            sheet.save(wanted.gallery, runner.spec.name, by(runner.origin, terms.version))


def by(origin: str, version: str) -> str:
    """Name what answers. version: of a served model; empty for a file."""
    return f"{origin}, version {version}" if version else origin


def example_answer(runner: Runner, task: Task, top: int = 1) -> Answer:
    """An answer of this model with something in every place, which shows what kind of things its answers hold."""
    outputs = runner.spec.outputs
    height, width = runner.spec.input.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    filled = {output.name: _filled(output, len(runner.spec.labels)) for output in outputs}
    return task.answer(filled, Geometry((width, height), whole, whole), top)


def _filled(output: TensorSpec, labels: int) -> NDArray[Any]:
    """All ones, or a mask that has every class."""
    if output.dtype != "UINT8":
        return np.ones(output.shape, "float32")
    return (np.arange(math.prod(output.shape)) % max(labels, 2)).astype("uint8").reshape(output.shape)


class Tally:
    """Counts rows and keeps what is printed of them: what was told, and neither embeddings nor thumbnails."""

    def __init__(self, most: int | None) -> None:
        """Keep the first `most` rows, or all for None."""
        self.answered = self.failed = self.left_out = 0
        self.rows: list[Row] = []
        self._most = most

    def write(self, row: Row) -> None:
        """Take note of one row."""
        if row.answer is None:
            self.failed += 1
        else:
            self.answered += 1
        if left_out(row):
            self.left_out += 1
        elif self._most is None or len(self.rows) < self._most:
            self.rows.append(replace(row, answer=row.answer and Answer(row.answer.fields), thumbnail=None))

    def summary(self) -> str:
        """The counts in words."""
        without = f", {self.left_out} left out by the filter" if self.left_out else ""
        return f"{self.answered} answered, {self.failed} failed{without}"
