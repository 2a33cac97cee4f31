"""Everything that `client infer` writes: answer files, drawn masks, a contact sheet."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.infer import FinishRow, Row
from client.outputs.contact_sheet import ContactSheet
from client.outputs.drawings import (
    Draw,
    Drawings,
    check_folders,
    cutout_on,
    draw_mask,
    draw_overlay,
    with_unique_paths,
)
from client.outputs.filters import KEPT, is_filtered_out
from client.outputs.formats import FORMATS
from client.outputs.job import Job, JobSettings, PrintMessage, job_path, open_job
from client.picture import Picture
from client.sources.argument_files import files_in_arguments
from client.sources.lists import CSV_SUFFIXES
from client.sources.picture_stream import STDIN
from tritonkit.errors import InputError
from tritonkit.images.picture_files import SkippedFiles
from tritonkit.images.preprocess import Geometry
from tritonkit.runtimes import Runner
from tritonkit.system.files import check_can_write, check_is_html, delete_partial_files
from tritonkit.tasks import Answer, Task

DEFAULT_BACKGROUND = "white"


@dataclass(frozen=True)
class OutputConfig:
    """The outputs of `client infer`."""

    outputs: Sequence[Path] = ()
    gallery: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders of drawn files, by row key."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    background: str | None = None
    overwrite: bool = False
    """Start over and replace existing files."""
    retry_failed: bool = False
    """Answer images again that have an error from an earlier run."""

    @classmethod
    def from_options(
        cls,
        outputs: Sequence[Path],
        gallery: Path | None,
        folders: Mapping[str, Path | None],
        background: str | None,
        inputs: Sequence[str],
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> OutputConfig:
        """Check the options before anything is opened. Raises InputError.

        folders: for `mask`, `overlay` and `cutout`, the folder of the drawings, or None for no such drawings.
        inputs: the paths and addresses of the command.
        """
        _check_files(outputs, gallery)
        _check_no_inputs_overwritten(outputs, inputs)
        for option, is_set in {"--overwrite": overwrite, "--retry-failed": retry_failed}.items():
            if is_set and not outputs:
                raise InputError(
                    f"{option}: applies to the files of --output, which is not set", code="option.output_missing"
                )
        chosen_folders = {key: folder for key, folder in folders.items() if folder is not None}
        check_folders(chosen_folders, inputs)
        if background is not None and "cutout" not in chosen_folders:
            raise InputError(
                f"--background {background}: applies to cutouts; set their folder with --cutouts DIR",
                code="option.background_unused",
            )
        draws: dict[str, Draw] = {"mask": draw_mask, "overlay": draw_overlay}
        if "cutout" in chosen_folders:
            draws["cutout"] = cutout_on(background or DEFAULT_BACKGROUND)
        drawn = {key: draws[key] for key in chosen_folders}
        return cls(outputs, gallery, chosen_folders, drawn, background, overwrite, retry_failed)


def _check_files(outputs: Sequence[Path], gallery: Path | None) -> None:
    for path in outputs:
        if path.suffix not in FORMATS:
            raise InputError(f"{path}: expected a file name that ends in {', '.join(FORMATS)}", code="output.format")
    files = [*outputs]  # first, so that an error names the path that was typed
    files += [file for path in outputs for file in FORMATS[path.suffix].files(path) if file != path]
    files += map(job_path, outputs[:1])
    check_is_html(gallery)
    if gallery is not None:
        files.append(gallery)
    path_counts = Counter(path.absolute() for path in files)
    if duplicate := next((path for path, count in path_counts.items() if count > 1), None):
        raise InputError(f"{duplicate}: would be written twice; set different files", code="output.twice")
    check_can_write(*files)


def _check_no_inputs_overwritten(outputs: Sequence[Path], inputs: Sequence[str]) -> None:
    """Refuse outputs that would overwrite inputs."""
    outputs_by_id = {_identity(path.stat()): path for path in outputs if path.is_file()}
    if not outputs_by_id:
        return
    endings = (*FORMATS, *CSV_SUFFIXES)
    files = (file for file in files_in_arguments(inputs) if file.lower().endswith(endings))
    inputs_by_id = {_identity(os.stat(file)): file for file in files}  # noqa: PTH116
    if STDIN in inputs:
        with contextlib.suppress(OSError, ValueError):  # stdin is closed, or not a file
            inputs_by_id[_identity(os.fstat(sys.stdin.fileno()))] = STDIN
    if shared := outputs_by_id.keys() & inputs_by_id.keys():
        identity = shared.pop()
        raise InputError(
            f"{outputs_by_id[identity]}: is also an input, as {inputs_by_id[identity]}; set another --output",
            code="output.is_input",
        )


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


@dataclass(frozen=True)
class OutputWriter:
    """Writes rows while a job runs, and knows what was written before."""

    finish: FinishRow
    """Finishes each answer, in any thread."""
    job: Job | None
    """The job of --output; None without it, so that earlier runs are not known."""
    sheet: ContactSheet | None
    thumbnail_names: set[str]
    """Names of the images that need a thumbnail for the contact sheet."""
    has_drawings: bool
    """Whether images are drawn, so that their relative paths must be unique."""

    def unanswered(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        """Yield the pictures without a row, with the same relative paths in every run."""
        for picture in with_unique_paths(pictures) if self.has_drawings else pictures:
            if self.job and self.job.has_row(picture.name):
                if self.sheet:
                    self.sheet.restore_thumbnail(picture)
                continue
            if self.sheet and self.sheet.has_room:
                self.thumbnail_names.add(picture.name)
            yield picture

    def remaining(self, total: int | None) -> int | None:
        """Estimate how many of `total` pictures have no row yet."""
        return None if total is None else max(0, total - (self.job.earlier if self.job else 0))

    @property
    def earlier_failed(self) -> int:
        """Number of images of this job that failed before this client resumed it."""
        return self.job.earlier_failed if self.job else 0

    def document(self, tally: Tally, skipped: SkippedFiles) -> dict[str, Any]:
        """Return the `--json` document: rows of this client, the number of earlier rows, and skipped files."""
        rows = [row.as_json() for row in tally.rows]
        earlier_counts = {"earlier": self.job.earlier} if self.job and self.job.earlier else {}
        filter_counts = {"left_out": tally.filtered_out} if tally.filtered_out else {}
        skipped_counts = {"skipped": dict(skipped.kinds.most_common())} if skipped.kinds else {}
        return {
            "answered": tally.answered,
            "failed": tally.failed,
            **filter_counts,
            **earlier_counts,
            **skipped_counts,
            "rows": rows,
        }

    def summary(self, tally: Tally, origin: str, version: str) -> str:
        """Return the last line. version: of a served model; empty for an artifact."""
        left_out = f", {tally.filtered_out} left out by the filter" if tally.filtered_out else ""
        line = f"{tally.answered} answered, {tally.failed} failed{left_out}, by {model_title(origin, version)}"
        if not (self.job and self.job.earlier):
            return line
        if self.job.has_nothing_new:
            return f"nothing new: {self.job.path} already has all {self.job.earlier} rows"
        return f"{line}; {self.job.earlier} rows are from earlier runs"

    def write(self, row: Row) -> None:
        """Write a finished row, in order. Raises ExternalError if the disk is full."""
        if self.job:
            self.job.write(row)
        if self.sheet:
            self.sheet.write(row)


@contextmanager
def open_outputs(
    config: OutputConfig, runner: Runner, task: Task, settings: JobSettings, say: PrintMessage
) -> Iterator[OutputWriter]:
    """Start or resume the outputs; the files are complete if the block ends without an error.

    settings: of the job, without its outputs. say: prints how to continue after an error.
    Raises InputError if the model's answers do not fit an output, or if a file cannot be written.
    """
    example = example_answer(runner, task, settings.top)
    if config.draws and example.mask is None:
        options = ", ".join(f"--{key}s" for key in config.draws)
        raise InputError(
            f"{options}: the answers of {runner.spec.name} have no masks, because its task is {runner.spec.task}",
            code="output.no_masks",
        )
    filter_fields = {KEPT: True} if settings.has_filter else {}
    example = replace(example, fields=example.fields | dict.fromkeys(config.folders, "") | filter_fields)
    with contextlib.ExitStack() as stack:
        job = None
        if config.outputs:
            drawn = {key: str(folder) for key, folder in config.folders.items()}
            names = tuple(path.name for path in config.outputs)
            settings = settings.model_copy(update={"drawn": drawn, "background": config.background, "outputs": names})
            job = stack.enter_context(
                open_job(config.outputs, settings, example, say, config.overwrite, config.retry_failed)
            )
            if job.earlier:
                for folder in config.folders.values():
                    delete_partial_files(folder.rglob(".*.partial"))
        sheet = ContactSheet(task, job) if config.gallery else None
        thumbnail_names = set[str]()
        drawings = Drawings(config.draws, config.folders, thumbnail_names)
        yield OutputWriter(drawings.finish, job, sheet, thumbnail_names, has_drawings=bool(config.draws))
        if sheet and sheet.total and config.gallery:
            sheet.save(config.gallery, runner.spec.name, model_title(runner.origin, settings.version))


def model_title(origin: str, version: str) -> str:
    """Return a model's origin with its version. version: of a served model; empty for an artifact."""
    return f"{origin}, version {version}" if version else origin


def example_answer(runner: Runner, task: Task, top: int = 1) -> Answer:
    """Return an answer of this model with every field filled, which shows the fields of its answers."""
    preprocess, image = runner.spec.preprocess, runner.spec.input
    full_box = (0.0, 0.0, float(preprocess.width), float(preprocess.height))
    geometry = Geometry((preprocess.width, preprocess.height), full_box, full_box)
    return task.answer(task.example_outputs(image), geometry, top)


class Tally:
    """Counts rows and keeps the rows to print, without embeddings and thumbnails."""

    def __init__(self, max_rows: int | None) -> None:
        """max_rows: number of rows to keep; None keeps all."""
        self.answered = self.failed = self.filtered_out = 0
        self.rows: list[Row] = []
        self._max_rows = max_rows

    def write(self, row: Row) -> None:
        """Count one row."""
        if row.answer is None:
            self.failed += 1
        else:
            self.answered += 1
        if is_filtered_out(row):
            self.filtered_out += 1
        elif self._max_rows is None or len(self.rows) < self._max_rows:
            self.rows.append(replace(row, answer=row.answer and Answer(row.answer.fields), thumbnail=None))
