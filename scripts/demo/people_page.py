"""Check the results of scripts/people.sh against expected values, and write the HTML page that shows them.

python -m scripts.demo.people_page people, with the address of the masks in TRITONKIT_MASKS

Exits with 1 if a result is worse than expected.
"""

from __future__ import annotations

import json
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import create_engine, text

from benchmarks.studies.study import report_checks
from tritonkit import pages
from tritonkit.checkpoint import read_spec
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import ModelSpec

MODELS = ("people_mask", "walkers", "people")
LEAST_IOU, LEAST_ACCURACY = 0.75, 0.7


def main(folder: Path) -> int:
    """Print a line for each expectation, and write `index.html` into the folder that `scripts/people.sh` has filled."""
    iou = read_spec(folder / "runs" / "people_mask" / "1" / "best.safetensors").lineage.metrics["val_iou"]
    accuracy = json.loads((folder / "test.json").read_text())["metrics"]["accuracy"]
    with create_engine(os.environ["TRITONKIT_MASKS"]).connect() as connection:
        masks = int(connection.execute(text("SELECT count(*) FROM masks")).scalar_one())
    lines = (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {Path(row["path"]).name: row for row in map(json.loads, lines)}
    answers = {name: row["objects"] for name, row in rows.items()}
    frames = [found for name, found in answers.items() if name[0].isdigit() and len(name) == len("00.jpg")]
    people = sum(map(len, answers.values()))
    repository = folder / "model_repository"
    models = [_model(repository / name, folder) for name in MODELS]
    passed = report_checks(
        {
            f"the model finds people: IoU {iou:.3f}, at least {LEAST_IOU}": iou >= LEAST_IOU,
            f"directions of later walkers: accuracy {accuracy:.3f}, at least {LEAST_ACCURACY}": accuracy
            >= LEAST_ACCURACY,
            "every verdict passed, and every model is signed": all(m["verdict"].passed and m["signed"] for m in models),
            "nobody is in the empty scene": answers["empty.jpg"] == [],
            "people are in every frame": all(frames) and len(frames) > 5,
        }
    )
    page = pages.templates(Path(__file__).parent).get_template("people_page.html.jinja")
    facts = [
        (f"{iou:.1%}", "IoU of the people's masks"),
        (f"{masks:,}", "masks in PostgreSQL"),
        (f"{accuracy:.1%}", "accuracy of the direction"),
        (f"{people}", f"people in {len(answers)} pictures"),
    ]
    pictures = [_picture(folder / "overlays", name, row["counts"]) for name, row in rows.items()]
    (folder / "index.html").write_text(page.render(facts=facts, models=models, pictures=pictures), encoding="utf-8")
    return 0 if passed else 1


def _model(model: Path, folder: Path) -> dict[str, Any]:
    (version,) = (path for path in model.iterdir() if path.name.isdigit())
    spec = ModelSpec.read(version)
    return {
        "name": model.name,
        "task": spec and spec.task,
        "verdict": Verdict.read_file(version / Verdict.FILE),
        "signed": (version / "model.sig").is_file(),
        "page": version.relative_to(folder) / "verdict.html",
    }


def _picture(overlays: Path, name: str, counts: dict[str, int]) -> dict[str, str]:
    """The overlay of a picture as an address of itself, and its number of people by label."""
    with Image.open(overlays / f"{Path(name).stem}.png") as overlay:
        encoded = BytesIO()
        overlay.convert("RGB").save(encoded, "JPEG", quality=85)
    words = ", ".join(f"{count} {label}" for label, count in counts.items() if count) or "nobody"
    return {"name": name, "image": pages.data_url(encoded.getvalue(), "jpeg"), "words": words}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
