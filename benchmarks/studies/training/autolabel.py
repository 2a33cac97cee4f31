"""Measure what self-labelling gains on Fashion-MNIST, where a tenth of the training images keeps its labels.

For each seed `train autolabel --max-error 0.02` gets 2,000 labelled and 18,000 unlabelled images. All labels are known
here, so the error of the accepted ones is counted. The accuracy on images of the test part is compared with that of the
2,000 labels alone, which train for as many epochs as they need. Exits with 1 if a seed gains nothing, or if the error
of its accepted labels is 0.03 or more.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.studies.study import Result, command, run_process

LABELLED, HOLDOUT = 200, 300
"""Images of each class."""
MAX_ERROR, ALLOWED = 0.02, 0.03
# Confidence ranks the answers badly after label smoothing.
SETTINGS = (
    "loss=cross_entropy",
    "augment.shift=0.05",
    "augment.scale=0.1",
    "ema=0.99",
    "data.val_ratio=0.05",
    "workers=0",
)


def measure(
    config: Annotated[Path, typer.Argument()] = Path("examples/fashion.yaml"),
    data: Path = Path(".cache/data/fashion"),
    seeds: int = 3,
    rounds: int = 1,
    epochs: int = 40,
    round_epochs: int = 12,
    calibration: float = 0.5,
) -> Result:
    """Label with each seed, and compare."""
    by_seed = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            options = [
                *(
                    "--max-error",
                    MAX_ERROR,
                    "--rounds",
                    rounds,
                    "--calibration",
                    calibration,
                    "--round-epochs",
                    round_epochs,
                ),
                *(f"epochs={epochs}", f"seed={seed}"),
            ]
            by_seed.append({"seed": seed, **autolabel(config, data, Path(folder), options, seed)})
        print(by_seed[-1], flush=True)
    return Result(
        {
            "config": str(config),
            "settings": [*SETTINGS, f"epochs={epochs}"],
            "labelled": 10 * LABELLED,
            "max_error": MAX_ERROR,
            "calibration": calibration,
            "rounds": rounds,
            "round_epochs": round_epochs,
            "seeds": by_seed,
        },
        {
            "each seed gains accuracy over its labels alone": all(each["gain"] > 0 for each in by_seed),
            f"the error of the accepted labels is below {ALLOWED}": all(each["error"] < ALLOWED for each in by_seed),
        },
        packages=("torch", "timm"),
    )


def autolabel(config: Path, data: Path, folder: Path, options: list[Any], seed: int) -> dict[str, Any]:
    """Split the images, run the command, and count the wrong labels."""
    truths = split(data, folder, seed)
    overrides = [*SETTINGS, f"data.path={folder / 'labelled'}", f"output={folder / 'runs'}"]
    program = [sys.executable, "-P", "-m", "train.cli", "autolabel", config, *overrides]
    cost, reply = run_process([*program, "--unlabelled", folder / "unlabelled", "--folds", 0, "--json", *options])
    result = json.loads(reply)
    with (Path(result["folder"]) / "labels.csv").open(encoding="utf-8") as file:
        given = {Path(row["image_path"]).name: row["label"] for row in csv.DictReader(file)}
    wrong = sum(label != truths[name] for name, label in given.items())
    comparison = result["comparison"] or {"labels_alone": {"value": None}, "self_labelled": {"value": None}, "gain": 0}
    return {
        "accuracy_alone": comparison["labels_alone"]["value"],
        "accuracy_self_labelled": comparison["self_labelled"]["value"],
        "gain": comparison["gain"],
        "gain_interval": [comparison.get("low"), comparison.get("high")],
        "accepted": len(given),
        "wrong": wrong,
        "error": wrong / max(len(given), 1),
        "rounds": [{name: each[name] for name in ("threshold", "accepted", "val")} for each in result["rounds"]],
        "error_on_holdout": result["error"],
        "seconds": cost.seconds,
    }


def split(data: Path, folder: Path, seed: int) -> dict[str, str]:
    """Write `labelled/train.csv` and `labelled/test.csv`, link `unlabelled/`; return the hidden labels by file name."""
    draw = random.Random(seed)  # noqa: S311 - a reproducible shuffle, no secret
    truths, train, test = dict[str, str](), list[tuple[Path, str]](), list[tuple[Path, str]]()
    (folder / "labelled").mkdir()
    (folder / "unlabelled").mkdir()
    for label in sorted(path.name for path in (data / "train").iterdir()):
        images = sorted((data / "train" / label).iterdir())
        draw.shuffle(images)
        train += [(image, label) for image in images[:LABELLED]]
        test += [(image, label) for image in sorted((data / "test" / label).iterdir())[:HOLDOUT]]
        for image in images[LABELLED:]:
            name = f"{len(truths):05}{image.suffix}"
            (folder / "unlabelled" / name).symlink_to(image.resolve())
            truths[name] = label
    write_table(folder / "labelled" / "train.csv", train)
    write_table(folder / "labelled" / "test.csv", test)
    return truths


def write_table(path: Path, rows: Iterable[tuple[Path, str]]) -> None:
    """Write images with their labels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image_path", "label"))
        writer.writerows((image.resolve(), label) for image, label in rows)


if __name__ == "__main__":
    command(measure)()
