"""A finished run: its files, its checkpoints, and its repeatability."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.errors import raises
from tests.integration.train.conftest import golden_of_run
from train.config.loading import Config, load_config
from train.config.sections import AugmentConfig
from train.data.augment import make_augmentation
from train.data.dataset import ImageDataset
from train.data.splits import read_splits
from train.engine.fit import FitResult, fit
from train.engine.run_folder import RunFolder
from train.evaluate import evaluate
from train.tasks import training_task
from tritonkit.checkpoint import read_spec, read_weights
from tritonkit.errors import ConfigError, DataError
from tritonkit.runtimes import open_artifact
from tritonkit.sketch import Sketch

WriteConfig = Callable[..., Path]


def test_run_has_all_its_files_when_finished(trained: FitResult) -> None:
    names = {path.relative_to(trained.run).as_posix() for path in trained.run.rglob("*") if path.is_file()}
    assert names == {
        "best.safetensors", "last.safetensors", "golden.npz", "last.golden.npz", "sketch.npz", "last.sketch.npz",
        "config.yaml", "metrics.csv",
        "splits/train.csv", "splits/val.csv", "splits/test.csv", "splits/data.json",
        "curves.png", "batches.png", "predictions.png", "confusion.png", "report.html", "evaluation.json",
        *(f"confusion/00{epoch}.{suffix}" for epoch in range(1, 9) for suffix in ("png", "csv")),
        "lightning/last.ckpt", f"lightning/{best_state(trained).name}",
    }  # fmt: skip


def best_state(trained: FitResult) -> Path:
    """The state of the best epoch is named after the epoch."""
    (path,) = (trained.run / "lightning").glob("best-epoch=*.ckpt")
    return path


def test_training_learns_when_run(trained: FitResult) -> None:
    assert trained.metrics["test_accuracy"] > 0.6  # a guess is right a third of the time
    with (trained.run / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


def test_batch_statistics_are_learned_when_training(trained: FitResult) -> None:
    weights = read_weights(trained.checkpoint)
    assert not np.allclose(weights["backbone.bn1.running_mean"], 0)


@pytest.mark.parametrize("checkpoint_name", ["best", "last"])
def test_checkpoint_reproduces_its_golden_answers_when_opened(trained: FitResult, checkpoint_name: str) -> None:
    path = trained.run / f"{checkpoint_name}.safetensors"
    golden = golden_of_run(path)
    with open_artifact(path) as runner:
        outputs = runner.infer(golden.images)
    np.testing.assert_allclose(outputs["probabilities"], golden.outputs["probabilities"], atol=1e-5)


def test_sketch_holds_the_answers_to_the_validation_images_when_written(trained: FitResult) -> None:
    sketch = Sketch.load(trained.run / "sketch.npz")
    with (trained.run / "splits" / "val.csv").open() as file:
        assert sketch.images == len(list(csv.DictReader(file)))
    golden = golden_of_run(trained.checkpoint)
    summary = sketch.outputs["probabilities"]
    known = {row.tobytes() for row in summary.values[:, :-1]}  # the last column is the highest probability
    assert {row.tobytes() for row in golden.outputs["probabilities"].round(2).astype(np.float16)} <= known
    assert summary.labels.sum(axis=1).tolist() == [1] * sketch.images
    assert sketch.differing_fields(read_spec(trained.checkpoint)) == []


def test_golden_images_are_spread_over_the_labels_when_written(trained: FitResult) -> None:
    golden = golden_of_run(trained.checkpoint)
    assert golden.targets is not None
    assert len(golden.images) == 32
    assert set(Counter(golden.targets["probabilities"].tolist()).values()) == {10, 11}


def test_best_is_the_epoch_with_the_best_accuracy_when_training_ends(trained: FitResult) -> None:
    with (trained.run / "metrics.csv").open() as file:
        accuracies = [float(row["val_accuracy"]) for row in csv.DictReader(file) if row["val_accuracy"]]
    assert trained.metrics["val_accuracy"] == pytest.approx(max(accuracies), abs=1e-5)
    assert read_spec(trained.run / "last.safetensors").lineage.metrics["val_accuracy"] == pytest.approx(
        accuracies[-1], abs=1e-5
    )


def test_lineage_tells_where_the_model_comes_from_when_trained(trained: FitResult, trained_config: Config) -> None:
    lineage = read_spec(trained.checkpoint).lineage
    assert Config.model_validate(lineage.config) == trained_config
    assert (
        lineage.data_fingerprint
        == read_splits(trained_config.data, training_task(trained_config), trained_config.seed).fingerprint
    )
    assert (lineage.seed, lineage.metrics) == (0, trained.metrics)


def test_resolved_config_is_the_same_when_read_again(trained: FitResult, trained_config: Config) -> None:
    assert load_config(trained.run / "config.yaml") == trained_config


def test_test_metrics_are_measured_again_when_evaluated(trained: FitResult) -> None:
    evaluation = evaluate(trained.checkpoint)
    assert evaluation.images == 36
    for name, value in evaluation.metrics.items():
        assert value == pytest.approx(trained.metrics[f"test_{name}"], abs=1e-6)


def test_evaluation_is_refused_when_no_test_pictures_are_known(trained: FitResult, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes(trained.checkpoint.read_bytes())
    with raises(DataError, "data.no_test_split"):
        evaluate(lonely)


def test_training_repeats_itself_when_the_seed_is_the_same(
    folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", folder))
    first, second = fit(config), fit(config)
    assert (first.run.name, second.run.name) == ("1", "2")
    answers = [golden_of_run(run.checkpoint).outputs["probabilities"] for run in (first, second)]
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_training_ends_with_its_reason_when_it_diverges(
    folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", folder), ["optimizer={name: sgd, lr: 1.0e+30}"])
    with raises(ConfigError, "training.diverged"):
        fit(config)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_run_folders_differ_when_runs_start_at_once(trained_config: Config, tmp_path: Path) -> None:
    config = trained_config.model_copy(update={"output": tmp_path})
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(config).path.name, range(32)))
    assert sorted(map(int, runs)) == list(range(1, 33))


def test_images_are_what_the_model_takes_when_augmented(folder: Path, trained_config: Config) -> None:
    task = training_task(trained_config)
    splits, preprocess = read_splits(trained_config.data, task, 0), trained_config.image.preprocess
    plain = ImageDataset(splits.val, task, splits.task_spec, preprocess)
    augmented = ImageDataset(
        splits.val, task, splits.task_spec, preprocess, make_augmentation(AugmentConfig(), preprocess.fill)
    )
    for pictures in (plain, augmented):
        image, _ = pictures[0]
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (32, 32, 3))
    assert not torch.equal(augmented[0][0], plain[0][0])
    assert torch.equal(plain[0][0], plain[0][0])


def test_augmentation_is_none_when_turned_off() -> None:
    zeros = AugmentConfig(flip=0, shift=0, scale=0, rotate=0, color=0)
    for config in (zeros, AugmentConfig(enabled=False)):
        assert make_augmentation(config, (0, 0, 0)) is None
