"""Writes what a self-labelling leaves: its result, the labels as CSV, and the page to check doubtful ones."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from train.autolabel.data import AutolabelData
from train.autolabel.labelling import Labelling
from train.autolabel.result import AutolabelResult
from train.autolabel.review import ReviewItem, write_page
from train.autolabel.suspects import Suspect
from train.config.loading import Config
from tritonkit.evaluation.samples.sample import IMAGE
from tritonkit.system.files import atomic_write

DOUBTFUL, SUSPECTS, RESULT = "doubtful.csv", "suspects.csv", "result.json"
_ON_PAGE = 60
"""Images of each kind on the page."""


def write_outputs(
    result: AutolabelResult, data: AutolabelData, group: Labelling, suspects: Sequence[Suspect], config: Config
) -> None:
    """Write the tables, `result.json` and the page into the folder of the result."""
    column = data.task.truth_column
    columns = (IMAGE, column, "round", "confidence")

    def row(i: int) -> dict[str, object]:
        label, confidence = data.labels[group.labels[i]], f"{group.confidence[i]:.6f}"
        values = (str(group.paths[i].absolute()), label, int(group.rounds[i]), confidence)
        return dict(zip(columns, values, strict=True))

    def item(i: int, state: str) -> ReviewItem:
        label = data.labels[group.labels[i]]
        note = f"{state}: {label}, {group.confidence[i]:.1%} sure"
        return ReviewItem(str(group.paths[i].absolute()), label, note, is_used=state == "accepted")

    order: list[int] = np.argsort(-group.confidence, kind="stable").tolist()
    accepted = [i for i in order if group.rounds[i]]
    rejected = [i for i in order if not group.rounds[i]]
    _write_table(result.labels, columns, map(row, accepted))
    _write_table(result.folder / DOUBTFUL, columns, map(row, rejected))
    _write_table(result.folder / SUSPECTS, list(Suspect.model_fields), (each.model_dump() for each in suspects))
    with atomic_write(result.folder / RESULT) as temporary:
        temporary.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    groups = {
        "Accepted with the lowest confidence": [item(i, "accepted") for i in reversed(accepted[-_ON_PAGE:])],
        "Left out with the highest confidence": [item(i, "left out") for i in rejected[:_ON_PAGE]],
        "Given labels that look wrong": [
            ReviewItem(
                path=each.image_path,
                label=each.label,
                note=f"given as {each.label}; the model says {each.suggestion}",
                is_used=True,
            )
            for each in suspects[:_ON_PAGE]
        ],
    }
    write_page(result.page, config.name, result, groups, data.labels)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
