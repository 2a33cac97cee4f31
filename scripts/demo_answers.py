"""Check what the demo reached, print it, and write the page that shows it; exit 1 when something is wrong.

python -m scripts.demo_answers demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}
PAGE = """<!doctype html><meta charset="utf-8"><title>tritonkit demo</title>
<style>body{margin:0;background:#f5f6f8}iframe{border:0;width:100%;display:block}</style>
<iframe src="photos.html" height="480"></iframe>
<iframe src="digits.html" height="1500"></iframe>
<iframe src="report.html" height="2600"></iframe>
"""


def main(demo: Path) -> int:
    """Print a line for each expectation, with the figure that was reached."""
    accuracy = json.loads((demo / "test.json").read_text())["metrics"]["accuracy"]
    photos = {Path(row["path"]).stem: row["label"] for row in _rows(demo / "photos.jsonl")}
    digits = _rows(demo / "digits.jsonl")
    right = sum(row["label"] == Path(row["path"]).name.partition("_")[0] for row in digits)
    record = json.loads((demo / "record.json").read_text())
    best = max(level["share_of_limit"] for level in record["levels"])
    expectations = [
        (accuracy >= 0.95, f"held-out digits: accuracy {accuracy:.4f} (at least 0.95)"),
        (right >= 0.9 * len(digits), f"digits through Triton: {right} of {len(digits)} right"),
        (photos["cat"] in CATS, f"the cat is called {photos['cat']!r}"),
        (photos["coffee_cup"] == "espresso", f"the coffee cup is called {photos['coffee_cup']!r}"),
    ]
    for reached, sentence in expectations:
        print("ok  " if reached else "FAIL", sentence)
    print(f"     served at {best:.0%} of the in-process rate at the best concurrency")
    (demo / "index.html").write_text(PAGE)
    return 0 if all(reached for reached, _ in expectations) else 1


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
