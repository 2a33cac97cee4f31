"""The confusion matrix of each epoch, and the event files of TensorBoard."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.engine.fit import FitResult
from tritonkit.plugins import register


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_matrix_agrees_with_the_accuracy_when_counted_in_each_epoch(trained: FitResult) -> None:
    times = []
    for row in rows_of(trained.run / "metrics.csv"):
        counts = rows_of(trained.run / "confusion" / f"{int(row['epoch']):03}.csv")
        correct = sum(int(count["images"]) for count in counts if count["truth"] == count["answer"])
        total = sum(int(count["images"]) for count in counts)
        assert correct / total == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
        times.append(float(row["time"]))
    assert times == sorted(times)
    assert len(set(times)) == 8


@register("callback", "file_for_folder")
class FileForFolder(Callback):
    """Replaces the folder of the event files by a file after the first epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(trainer.loggers[0].log_dir)
        if folder.is_dir():
            shutil.rmtree(folder)
            folder.write_text("")


def test_training_goes_on_when_event_files_cannot_be_written(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path, command: Command
) -> None:
    config = write_config(
        tmp_path / "config.yaml",
        copy_digits(tmp_path / "data"),
        epochs=3,
        trackers=[{"name": "tensorboard", "folder": str(tmp_path / "events")}],
        callbacks=["file_for_folder"],
    )
    result = command("train", "fit", config)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning: TensorBoard") == 1
    run = tmp_path / "runs" / "tiny" / "1"
    assert len(rows_of(run / "metrics.csv")) == 3
    assert (run / "report.html").is_file()


def test_event_files_hold_scalars_and_images_when_trained(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path, command: Command
) -> None:
    config = write_config(
        tmp_path / "config.yaml", copy_digits(tmp_path / "data"), epochs=3, trackers=["csv", "tensorboard"]
    )
    result = command("train", "fit", config)
    assert result.exit_code == 0, result.output
    assert "epoch 1/3" in result.stderr
    assert " left" in result.stderr.splitlines()[0]
    assert " left" not in result.stderr.splitlines()[2]
    run = tmp_path / "runs" / "tiny" / "1"
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    rows = rows_of(run / "metrics.csv")
    for name in ("train_loss", "val_accuracy", "lr"):
        logged = [event.value for event in events.Scalars(name)]
        assert logged == pytest.approx([float(row[name]) for row in rows], abs=1e-6)
    assert [event.step for event in events.Scalars("lr")] == [event.step for event in events.Scalars("train_loss")]
    assert events.Scalars("hp_metric")[-1].value == pytest.approx(max(float(row["val_accuracy"]) for row in rows))
    images = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    assert {tag: len(each) for tag, each in images.items()} == {"batches": 1, "confusion": 3, "predictions": 1}
    with Image.open(run / "confusion" / "003.png") as drawn:
        shown = Image.open(io.BytesIO(images["confusion"][-1].encoded_image_string))
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(drawn))
    assert "optimizer.lr" in (run / "tensorboard" / "hparams.yaml").read_text()
