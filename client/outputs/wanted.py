"""Everything `client infer` is asked to write, in one place: files of answers, pictures of masks, a contact sheet."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from client.infer import Finish, Row
from client.outputs.drawings import Draw, Drawings, check_folders, cutout_on, draw_mask, draw_overlay
from client.outputs.files import OUTPUTS, Write, paths_beside
from client.outputs.gallery import contact_sheet
from model.errors import InputError
from model.files import check_can_write, check_is_html
from model.preprocess import Geometry
from model.runners import Runner
from model.tasks import Answer, Task

DEFAULT_BACKGROUND = "white"


@dataclass(frozen=True)
class Wanted:
    """What is to be written."""

    outputs: Sequence[Path] = ()
    gallery: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    """For pictures of masks, by what is drawn."""
    draws: Mapping[str, Draw] = field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        outputs: Sequence[Path],
        gallery: Path | None,
        folders: Mapping[str, Path | None],
        background: str | None,
        given: Sequence[str],
    ) -> Wanted:
        """Check what can be checked before anything is opened. Raises InputError.

        folders: for `mask`, `overlay` and `cutout`, where they go; None for what is not wanted.
        given: what is to be answered.
        """
        _check_files(outputs, gallery)
        chosen = {key: folder for key, folder in folders.items() if folder is not None}
        check_folders(chosen, given)
        if background is not None and "cutout" not in chosen:
            raise InputError(f"--background {background}: is put behind cutouts; say where they go with --cutouts DIR")
        draws: dict[str, Draw] = {"mask": draw_mask, "overlay": draw_overlay}
        if "cutout" in chosen:
            draws["cutout"] = cutout_on(background or DEFAULT_BACKGROUND)
        return cls(outputs, gallery, chosen, {key: draws[key] for key in chosen})


def _check_files(outputs: Sequence[Path], gallery: Path | None) -> None:
    for path in outputs:
        if path.suffix not in OUTPUTS:
            raise InputError(f"{path}: answers are written as {', '.join(OUTPUTS)}; end the name in one of them")
    files = [*outputs, *(paths_beside(path) for path in outputs if path.suffix == ".npy")]
    check_is_html(gallery)
    if gallery is not None:
        files.append(gallery)
    counts = Counter(path.absolute() for path in files)
    if twice := next((path for path, count in counts.items() if count > 1), None):
        raise InputError(f"{twice}: would be written twice; give each result a file of its own")
    check_can_write(*files)


@contextmanager
def opened(
    wanted: Wanted, runner: Runner, task: Task, shown: Container[str] = frozenset()
) -> Iterator[tuple[Finish, Write]]:
    """What is done with each answer, in any thread, and where each finished row is written, in order.

    shown: the names of the pictures that the contact sheet shows.
    Raises InputError when the model's answers have not what is wanted, or a file cannot be.
    """
    example = example_answer(runner, task)
    if wanted.draws and example.mask is None:
        asked = ", ".join(f"--{key}s" for key in wanted.draws)
        raise InputError(f"{asked}: the answers of {runner.spec.name} have no masks, its task is {runner.spec.task}")
    example = replace(example, told=example.told | dict.fromkeys(wanted.folders, ""))
    with contextlib.ExitStack() as stack:
        # Lines stay as far as they came; so they are begun when nothing else can be refused any more.
        files_first = sorted(wanted.outputs, key=lambda path: path.suffix == ".jsonl")
        writes = [stack.enter_context(OUTPUTS[path.suffix](path, example)) for path in files_first]
        if wanted.gallery:
            sheet = contact_sheet(wanted.gallery, task, runner.spec.name, runner.origin)
            writes.append(stack.enter_context(sheet))

        def write(row: Row) -> None:
            for one in writes:
                one(row)

        yield Drawings(wanted.draws, wanted.folders, shown).finish, write


def example_answer(runner: Runner, task: Task) -> Answer:
    """An answer of this model with something in every place, which shows what kind of things its answers hold."""
    outputs = runner.spec.outputs
    height, width = runner.spec.input.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    kinds = {output.name: (output.shape, "uint8" if output.dtype == "UINT8" else "float32") for output in outputs}
    ones = {name: np.ones(shape, kind) for name, (shape, kind) in kinds.items()}
    return task.answer(ones, Geometry((width, height), whole, whole), top=1)


class Tally:
    """Counts rows and keeps what is printed of them: what was told, and neither embeddings nor thumbnails."""

    def __init__(self, most: int | None) -> None:
        """Keep the first `most` rows, or all for None."""
        self.answered = self.failed = 0
        self.rows: list[Row] = []
        self._most = most

    def write(self, row: Row) -> None:
        """Take note of one row."""
        if row.answer is None:
            self.failed += 1
        else:
            self.answered += 1
        if self._most is None or len(self.rows) < self._most:
            self.rows.append(replace(row, answer=row.answer and Answer(row.answer.told), thumbnail=None))
