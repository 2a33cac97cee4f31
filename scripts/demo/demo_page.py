"""Write the HTML page of the demo: training, verdicts, answers, benchmark and next commands."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.charts import throughput_figure
from benchmarks.record import read_record
from benchmarks.report import CHART_OPTIONS
from tritonkit import pages
from tritonkit.pages.contact_sheet import ContactSheetTile, thumbnail
from tritonkit.images.preprocess import decode_image
from tritonkit.repository.verdict import Verdict

_DRAWINGS = {"curves.png": "Loss and accuracy by epoch", "confusion.png": "Confusion matrix of the best epoch"}


@dataclass(frozen=True)
class ExportSummary:
    """Summary of a verdict. `folder`: version folder of the model, relative to the page."""

    name: str
    folder: str
    target: str
    passed: bool
    max_abs: float
    limit: float
    decisions_kept: float
    images: str


def write_page(demo: Path) -> None:
    """Write `index.html` into the folder that `scripts/demo.sh` has filled."""
    test, record = json.loads((demo / "test.json").read_text()), read_record(demo / "record.json")
    digits, photos = read_rows(demo / "digits.jsonl"), read_rows(demo / "photos.jsonl")
    run = Path(test["checkpoint"]).parent
    chart = throughput_figure([record.name], [record]).to_html(
        full_html=False, include_plotlyjs=True, config=CHART_OPTIONS, div_id="throughput"
    )
    page = pages.templates(Path(__file__).parent).get_template("demo_page.html.jinja")
    text = page.render(
        test=test,
        run=run.relative_to(demo),
        drawings=[(data_url(run / name), caption) for name, caption in _DRAWINGS.items()],
        exports=[_export(demo, name) for name in ("digits", "imagenet")],
        photos=_tiles(photos),
        digits=[
            tile.model_copy(update={"failed": not is_correct(row)})
            for tile, row in zip(_tiles(digits), digits, strict=True)
        ],
        right=sum(is_correct(row) for row in digits),
        record=record,
        chart=Markup(chart),  # noqa: S704 - Plotly escapes its input
    )
    (demo / "index.html").write_text(text, encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the answers of `client infer --output FILE.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_correct(row: dict[str, Any]) -> bool:
    """Whether the label of a digit is the start of its file name."""
    return bool(row["label"] == Path(row["path"]).name.partition("_")[0])


def _tiles(rows: Sequence[dict[str, Any]]) -> list[ContactSheetTile]:
    return [
        ContactSheetTile(
            name=Path(row["path"]).stem,
            image=thumbnail(decode_image(Path(row["path"]).read_bytes())),
            caption=f"{row['label']} {row['probability']:.2f}",
        )
        for row in rows
    ]


def _export(demo: Path, name: str) -> ExportSummary:
    folder = demo / "model_repository" / name / "1"
    verdict = Verdict.read_file(folder / Verdict.FILE)
    return ExportSummary(
        name=name,
        folder=str(folder.relative_to(demo)),
        target=f"{verdict.format} {verdict.precision}",
        passed=verdict.passed,
        max_abs=max(comparison.max_abs for comparison in verdict.comparisons),
        limit=verdict.limits.max_abs,
        decisions_kept=min(comparison.decisions_kept for comparison in verdict.comparisons),
        images=verdict.images,
    )


def data_url(picture: Path) -> str:
    """Return a PNG as a URL, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
