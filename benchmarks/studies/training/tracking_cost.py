"""Measure how much longer an epoch of `train fit` takes with all trackers than a bare loop with metrics.csv.

The bare loop has no trackers, and neither counts nor draws confusion matrices or curves. Both train in this process
in turns. The trackers are TensorBoard and a real MLflow server on SQLite, with a real S3 server behind it, both on this
machine, so they take cores from the training too. An epoch's time is from its start to the start of the next one, with
validation, drawing and logging; the first and the last epoch do not count. Exits with 1 if the trackers cost more than
2 %. Needs the `dev` extra.
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
from train.engine.pictures import CurvesCallback
from train.engine.progress import EpochLogger
from train.engine.tracking.confusion import EpochConfusion
from tritonkit.plugins import register

MAX_RATIO = 1.02
ALL, BARE = "csv, tensorboard, mlflow", "csv"
CALLBACKS = {ALL: "epoch_starts", BARE: "epoch_starts, bare_loop"}

starts: list[float] = []
"""When each epoch of the current training started."""


@register("callback", "epoch_starts")
class EpochStarts(Callback):
    """Notes when each epoch starts."""

    def on_train_epoch_start(self, *_: Any) -> None:
        starts.append(time.perf_counter())


@register("callback", "bare_loop")
class BareLoop(Callback):
    """Takes out what a run writes after each epoch, except metrics.csv and the states."""

    def setup(self, trainer: Any, *_: Any, **__: Any) -> None:
        written = (EpochConfusion, CurvesCallback, EpochLogger)
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, written)]


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
        name: load_config(config, [f"epochs={epochs}", f"callbacks=[{CALLBACKS[name]}]", f"trackers=[{name}]"])
        for name in (BARE, ALL)
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
    ratio = round(median[ALL] / median[BARE], 3)
    return Result(
        {"config": str(config), "epochs": epochs, "epoch_seconds": seconds, "ratio": ratio},
        {f"epochs with all trackers take {ratio:.3f} of the bare time, at most {MAX_RATIO}": ratio <= MAX_RATIO},
        packages=("torch", "lightning", "mlflow", "tensorboard"),
    )


if __name__ == "__main__":
    command(measure)()
