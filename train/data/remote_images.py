"""Images of a store that a run's splits name, and that the cache may have lost since."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from train.config.loading import Config
from train.tasks import training_task
from tritonkit.evaluation.labelled_tables import read_labelled_tables
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import IMAGE, MASK
from tritonkit.plugins import load_plugins
from tritonkit.remotes import is_address


def fetch_missing_images(splits: Path, config: Config) -> None:
    """Fetch the remote data of a run again if an image or a mask of its splits is missing; else ask no store.

    splits: the folder of the splits. config: of the run. Raises what `local_path` raises.
    """
    places = [str(place) for place in (config.data.path, config.data.masks) if place is not None]
    if any(map(is_address, places)) and not all(path.is_file() for path in _paths(splits)):
        load_plugins(config.plugins)
        read_labelled_tables(config.data, training_task(config))


def _paths(splits: Path) -> Iterator[Path]:
    """Yield the paths of all images and masks."""
    for table in (splits / f"{part}.csv" for part in PARTS):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    yield from (Path(row[column]) for column in (IMAGE, MASK) if row.get(column))
