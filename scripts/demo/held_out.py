"""Copy some images of the test or validation split into a folder; the true label, if known, starts the file name.

python -m scripts.demo.held_out runs/digits/1/splits FOLDER
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

PICTURES = 60


def main(splits: Path, folder: Path) -> None:
    """Copy pairs of rows spread over the test split, or val without a test split; each label appears about twice."""
    rows = next(filter(None, (_rows(splits / f"{part}.csv") for part in ("test", "val"))))
    step = max(2, 2 * len(rows) // PICTURES)
    for row in [row for start in range(0, len(rows), step) for row in rows[start : start + 2]][:PICTURES]:
        image = Path(row["image_path"])
        label = f"{row['label']}_" if "label" in row else ""
        shutil.copy(image, folder / f"{label}{image.name}")


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
