"""Writes what a self-labelling leaves: its result, the labels as CSV, and the page to check doubtful ones."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from train.autolabel.labelling import Labelling
from train.autolabel.pictures import Pictures
from train.autolabel.result import AutolabelResult
from train.autolabel.review import Doubtful, write_page
from train.autolabel.suspects import Suspect
from train.config.loading import Config
from tritonkit.evaluation.samples.sample import IMAGE
from tritonkit.system.files import atomic_write

DOUBTFUL, SUSPECTS, RESULT = "doubtful.csv", "suspects.csv", "result.json"
_ON_PAGE = 60
"""Pictures of each kind on the page."""


def write_outputs(
    result: AutolabelResult, pictures: Pictures, group: Labelling, suspects: Sequence[Suspect], config: Config
) -> None:
    """Write the tables, `result.json` and the page into the folder of the result."""
    column = pictures.task.truth_column
    rows = [
        {
            IMAGE: str(group.paths[i].absolute()),
            column: pictures.labels[group.labels[i]],
            "round": int(group.rounds[i]),
            "confidence": f"{group.confidence[i]:.6f}",
        }
        for i in np.argsort(-group.confidence, kind="stable").tolist()
    ]
    columns = (IMAGE, column, "round", "confidence")
    _write_table(result.labels, columns, (row for row in rows if row["round"]))
    _write_table(result.folder / DOUBTFUL, columns, (row for row in rows if not row["round"]))
    _write_table(result.folder / SUSPECTS, list(Suspect.model_fields), (each.model_dump() for each in suspects))
    with atomic_write(result.folder / RESULT) as temporary:
        temporary.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    accepted = [row for row in rows if row["round"]][-_ON_PAGE:]
    rejected = [row for row in rows if not row["round"]][:_ON_PAGE]
    groups = {
        "Accepted with the lowest confidence": [_doubtful(row, column, "accepted") for row in reversed(accepted)],
        "Left out with the highest confidence": [_doubtful(row, column, "left out") for row in rejected],
        "Given labels that look wrong": [
            Doubtful(
                path=each.image_path,
                label=each.label,
                note=f"given as {each.label}; the model says {each.suggestion}",
                is_used=True,
            )
            for each in suspects[:_ON_PAGE]
        ],
    }
    write_page(result.page, config.name, result, groups, pictures.labels)


def _doubtful(row: Mapping[str, object], column: str, state: str) -> Doubtful:
    note = f"{state}: {row[column]}, {float(str(row['confidence'])):.1%} sure"
    return Doubtful(path=str(row[IMAGE]), label=str(row[column]), note=note, is_used=state == "accepted")


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
