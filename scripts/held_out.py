"""Copy some held-out pictures into one folder, each named after its true label.

python -m scripts.held_out runs/digits/1/splits/test.csv FOLDER
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

PICTURES = 60


def main(split: Path, folder: Path) -> None:
    """Take every n-th line of the split, so that all labels appear."""
    with split.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:: max(1, len(rows) // PICTURES)][:PICTURES]:
        picture = Path(row["image_path"])
        shutil.copy(picture, folder / f"{row['label']}_{picture.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
