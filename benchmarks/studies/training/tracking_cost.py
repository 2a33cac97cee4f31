"""Measure how much longer an epoch of `train fit` takes with all trackers than with metrics.csv alone.

Both train in this process in turns. The trackers are TensorBoard and a real MLflow server on SQLite, with a real S3
server behind it, both on this machine, so they take cores from the training too. An epoch's time is from its start to
the start of the next one, with validation, drawing and logging; the first and the last epoch do not count. Exits with 1
if the trackers cost more than 2 %. Needs the `dev` extra.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import fsspec
import typer
from lightning.pytorch import Callback

from benchmarks.studies.study import Result, command, in_turns, medians
from tests.mlflow_server import MlflowServer
from tests.object_store import ObjectStore
from train.config.loading import Config, load_config
from train.engine.fit import fit
from tritonkit.plugins import register

MAX_RATIO = 1.02
ALL, CSV = "csv, tensorboard, mlflow", "csv"

starts: list[float] = []
"""When each epoch of the current training started."""


@register("callback", "epoch_starts")
class EpochStarts(Callback):
    """Notes when each epoch starts."""

    def on_train_epoch_start(self, *_: Any) -> None:
        starts.append(time.perf_counter())


def epoch_seconds(config: Config) -> float:
    """Return the median seconds of an epoch of one training."""
    starts.clear()
    with tempfile.TemporaryDirectory() as folder:
        fit(config.model_copy(update={"output": Path(folder)}))
    spans = [after - before for before, after in pairwise(starts)]
    return round(statistics.median(spans[1:]), 3)


def measure(
    config: Annotated[Path, typer.Argument()] = Path("examples/digits.yaml"),
    rounds: int = 4,
    epochs: Annotated[int, typer.Option(min=4)] = 8,
) -> Result:
    """Train with both, and compare the medians."""
    settings = {
        name: load_config(config, [f"epochs={epochs}", "callbacks=[epoch_starts]", f"trackers=[{name}]"])
        for name in (CSV, ALL)
    }
    with tempfile.TemporaryDirectory() as temporary:
        store = ObjectStore(Path(temporary) / "s3")
        store.start()
        server = MlflowServer(Path(temporary), "s3://mlflow", store.environment)
        try:
            os.environ |= {**store.environment, "MLFLOW_S3_ENDPOINT_URL": store.url, "MLFLOW_TRACKING_URI": server.url}
            fsspec.filesystem("s3").mkdir("mlflow")
            server.start()
            seconds = in_turns({name: partial(epoch_seconds, each) for name, each in settings.items()}, rounds)
        finally:
            server.kill()
            store.kill()
    median = medians(seconds)
    ratio = round(median[ALL] / median[CSV], 3)
    return Result(
        {"config": str(config), "epochs": epochs, "epoch_seconds": seconds, "ratio": ratio},
        {f"epochs with all trackers take {ratio:.3f} of the time, at most {MAX_RATIO}": ratio <= MAX_RATIO},
        packages=("torch", "lightning", "mlflow", "tensorboard"),
    )


if __name__ == "__main__":
    command(measure)()
