"""Measure how often a search model calls images of unknown classes known, at chosen rates.

An embedder is trained on the classes of `train` of Wesnoth's units (`make data-tasks`), which are the gallery too.
Thresholds are chosen on the classes of `val` and tested on those of `test`, and the other way round. Then the images of
both are divided at random, many times: into other images of the same classes, and into other classes.

Exits with 1 if the mean over the divisions, of other images or of other classes, is more than two points from the
chosen rate.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.studies.study import Result, command, run_process
from builder.index.threshold import Threshold, choose_threshold, leave_one_out
from builder.sources import open_source
from builder.sources.search.gallery import Gallery, embed_items, read_items

UNITS = Path(__file__).parents[3] / ".cache" / "data" / "units"
CONFIG = Path(__file__).parents[3] / "examples" / "units.yaml"
RATES = (0.01, 0.02, 0.05, 0.1)
POINTS = 2.0


def train_embedder(folder: Path) -> Path:
    """Train the example in a folder; return the checkpoint."""
    run_process([sys.executable, "-P", "-m", "train.cli", "fit", CONFIG, f"data.path={UNITS}", f"output={folder}/runs"])
    return next(folder.glob("runs/*/*/best.safetensors"))


def threshold(distances: NDArray[np.float32], labels: NDArray[np.str_], rate: float) -> Threshold:
    """Choose a threshold as `builder index --held-out` does."""
    return choose_threshold(distances, labels, rate, "the held-out images")


def divisions(groups: NDArray[Any], number: int) -> Iterator[NDArray[np.bool_]]:
    """Yield random halves of the groups, as a mask of the images."""
    names, rng = np.unique(groups), np.random.default_rng(0)
    for _ in range(number):
        yield np.isin(groups, rng.permutation(names)[: len(names) // 2])


def shares_in_halves(
    distances: NDArray[np.float32], labels: NDArray[np.str_], groups: NDArray[Any], rate: float, number: int
) -> dict[str, float]:
    """Choose on one half and test on the other, many times; return mean and standard deviation in percent."""
    shares = []
    for chosen in divisions(groups, number):
        limit = threshold(distances[chosen], labels[chosen], rate).distance
        shares.append(100 * float((distances[~chosen] < limit).mean()))
    return {"mean_percent": round(float(np.mean(shares)), 2), "sd_points": round(float(np.std(shares)), 2)}


def measure(
    checkpoint: Annotated[Path | None, typer.Option(help="The embedder; default: it is trained now.")] = None,
    number: Annotated[int, typer.Option(min=10, help="Random divisions.")] = 200,
) -> Result:
    """Measure the rates."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(checkpoint or train_embedder(Path(folder)), None, None)
        parts: dict[str, Gallery] = {
            part: embed_items(read_items(UNITS / part, source.spec), source.reference)
            for part in ("train", "val", "test")
        }
    gallery, val, test = parts.values()
    nearest = {part: gallery.search(images.vectors, 1)[0][:, 0] for part, images in (("val", val), ("test", test))}
    distances = np.concatenate([*nearest.values()])
    labels = np.concatenate([val.labels, test.labels])
    left_out = leave_one_out(gallery)
    rows: dict[str, dict[str, Any]] = {}
    for rate in RATES:
        chosen, swapped = threshold(nearest["val"], val.labels, rate), threshold(nearest["test"], test.labels, rate)
        row: dict[str, Any] = {
            "threshold": round(chosen.distance, 5),
            "standard_error_points": round(100 * chosen.error, 2),
            "test_percent": round(100 * float((nearest["test"] < chosen.distance).mean()), 2),
            "val_percent_by_threshold_of_test": round(100 * float((nearest["val"] < swapped.distance).mean()), 2),
            "false_reject_percent": round(100 * (left_out.false_reject(chosen.distance) or 0), 2),
            "other_images": shares_in_halves(distances, labels, np.arange(len(labels)), rate, number),
            "other_classes": shares_in_halves(distances, labels, labels, rate, number),
        }
        rows[f"{rate:.0%}"] = row
    checks = {
        f"{rate:.0%}: {row[kind]['mean_percent']} % of {kind.replace('_', ' ')} in the mean": (
            abs(row[kind]["mean_percent"] - 100 * rate) <= POINTS
        )
        for rate, row in zip(RATES, rows.values(), strict=True)
        for kind in ("other_images", "other_classes")
    }
    return Result(
        {
            "images": {part: len(images) for part, images in parts.items()},
            "classes": {part: len(images.classes) for part, images in parts.items()},
            "recall": left_out.recall,
            "divisions": number,
            "rates": rows,
        },
        checks,
        packages=("torch", "timm"),
    )


if __name__ == "__main__":
    command(measure)()
