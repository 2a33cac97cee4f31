"""Check the results of the demo against expected values, and write the HTML page that shows them.

python -m scripts.demo.demo_page demo

Exits with 1 if a result is worse than expected.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.records.record import read_record
from benchmarks.report.charts import Series, throughput_figure
from benchmarks.studies.study import report_checks
from tritonkit import pages
from tritonkit.images.preprocess import decode_image
from tritonkit.pages.contact_sheet import ContactSheetTile, thumbnail
from tritonkit.pages.figures import CHART_OPTIONS, colour_of
from tritonkit.repository.verdict import Verdict

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}
_DRAWINGS = {"curves.png": "Loss and accuracy by epoch", "confusion.png": "Confusion matrix of the best epoch"}


def main(demo: Path) -> int:
    """Print a line for each expectation, and write `index.html` into the folder that `scripts/demo.sh` has filled."""
    test, record = json.loads((demo / "test.json").read_text()), read_record(demo / "record.json")
    digits, photos = _read_rows(demo / "digits.jsonl"), _read_rows(demo / "photos.jsonl")
    # The label of a digit is the start of its file name.
    are_right = [row["label"] == Path(row["path"]).name.partition("_")[0] for row in digits]
    right, accuracy = sum(are_right), test["metrics"]["accuracy"]
    labels = {Path(row["path"]).stem: row["label"] for row in photos}
    passed = report_checks(
        {
            f"held-out digits: accuracy {accuracy:.4f} (at least 0.95)": accuracy >= 0.95,
            f"digits through Triton: {right} of {len(digits)} right": right >= 0.9 * len(digits),
            f"the cat is called {labels['cat']!r}": labels["cat"] in CATS,
            f"the coffee cup is called {labels['coffee_cup']!r}": labels["coffee_cup"] == "espresso",
        }
    )
    best = max(level.share_of_limit or 0.0 for level in record.levels)
    print(f"     served at {best:.0%} of the in-process rate at the best concurrency")
    run, versions = Path(test["checkpoint"]).parent, [f"model_repository/{name}/1" for name in ("digits", "imagenet")]
    chart = throughput_figure([Series(record.name, colour_of(0), record)]).to_html(
        full_html=False, include_plotlyjs=True, config=CHART_OPTIONS, div_id="throughput"
    )
    page = (
        pages.templates(Path(__file__).parent)
        .get_template("demo_page.html.jinja")
        .render(
            test=test,
            run=run.relative_to(demo),
            drawings=[(data_url(run / name), caption) for name, caption in _DRAWINGS.items()],
            verdicts={folder: Verdict.read_file(demo / folder / Verdict.FILE) for folder in versions},
            photos=_tiles(photos, [True] * len(photos)),
            digits=_tiles(digits, are_right),
            right=right,
            record=record,
            chart=Markup(chart),  # noqa: S704 - Plotly escapes its input
        )
    )
    (demo / "index.html").write_text(page, encoding="utf-8")
    return 0 if passed else 1


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the answers of `client infer --output FILE.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tiles(rows: Sequence[dict[str, Any]], are_right: Sequence[bool]) -> list[ContactSheetTile]:
    return [
        ContactSheetTile(
            name=Path(row["path"]).stem,
            image=thumbnail(decode_image(Path(row["path"]).read_bytes())),
            caption=f"{row['label']} {row['probability']:.2f}",
            failed=not is_right,
        )
        for row, is_right in zip(rows, are_right, strict=True)
    ]


def data_url(picture: Path) -> str:
    """Return a PNG as a URL, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
