"""Check the results of the demo against expected values, print them, and write the demo page.

python -m scripts.demo.demo_answers demo

Exits with 1 if a result is worse than expected.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.studies.study import report_checks
from scripts.demo.demo_page import is_correct, read_rows, write_page

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}


def main(demo: Path) -> int:
    """Print a line with the measured value for each expectation."""
    accuracy = json.loads((demo / "test.json").read_text())["metrics"]["accuracy"]
    photos = {Path(row["path"]).stem: row["label"] for row in read_rows(demo / "photos.jsonl")}
    digits = read_rows(demo / "digits.jsonl")
    correct = sum(is_correct(row) for row in digits)
    record = json.loads((demo / "record.json").read_text())
    best = max(level["share_of_limit"] for level in record["levels"])
    passed = report_checks(
        {
            f"held-out digits: accuracy {accuracy:.4f} (at least 0.95)": accuracy >= 0.95,
            f"digits through Triton: {correct} of {len(digits)} right": correct >= 0.9 * len(digits),
            f"the cat is called {photos['cat']!r}": photos["cat"] in CATS,
            f"the coffee cup is called {photos['coffee_cup']!r}": photos["coffee_cup"] == "espresso",
        }
    )
    print(f"     served at {best:.0%} of the in-process rate at the best concurrency")
    write_page(demo)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
