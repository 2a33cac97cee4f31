"""Each task, trained for a few epochs on real images: the files of the run, and what the model learned."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fixture_types import Command
from tests.integration.train.conftest import golden_of_run
from train.config.loading import load_config
from train.data.splits import PARTS
from train.engine.fit import FitResult
from train.experiments.out_of_fold import PREDICTIONS_FILE, FoldAnswers, out_of_fold
from tritonkit.checkpoint import read_spec
from tritonkit.evaluation.evaluate import LabelledImages
from tritonkit.runtimes import open_artifact

MetricValues = Callable[[Path], list[dict[str, float]]]

MONITORS = {"multilabel": "map", "embedding": "recall@1", "mined": "recall@1", "segmentation": "iou", "heads": "mean"}


def test_run_leaves_its_files_when_finished(run: FitResult) -> None:
    names = {path.relative_to(run.run).as_posix() for path in run.run.rglob("*") if path.is_file()}
    assert names >= {
        "best.safetensors", "last.safetensors", "golden.npz", "last.golden.npz", "sketch.npz",
        "config.yaml", "metrics.csv",
        "splits/train.csv", "splits/val.csv", "splits/test.csv", "splits/data.json", "lightning/last.ckpt",
    }  # fmt: skip
    assert not [name for name in names if "partial" in name]


def test_matrix_of_each_head_is_counted_when_the_model_has_classes(run: FitResult, case: str) -> None:
    names = {path.name for path in (run.run / "confusion").glob("001*")}
    assert names == {
        "multilabel": {"001.png", "001.csv"},
        "segmentation": {"001.png", "001.csv"},
        "heads": {"001.digit.png", "001.digit.csv", "001.round.png", "001.round.csv"},
    }.get(case, set())


def test_loss_goes_down_when_trained(run: FitResult, case: str, figures: MetricValues) -> None:
    losses = [row["train_loss"] for row in figures(run.run)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    if case != "mined":  # what a miner picks grows harder as the network learns
        assert losses[-1] < 0.97 * losses[0]


def test_metrics_are_those_of_the_task_when_measured(run: FitResult, case: str, figures: MetricValues) -> None:
    monitor = f"val_{MONITORS[case]}"
    rows = figures(run.run)
    best = max(row[monitor] for row in rows)
    assert run.metrics[monitor] == pytest.approx(best, abs=2e-6)
    assert all(0 <= value <= 1 for value in run.metrics.values())
    assert ("val_loss" in rows[0]) == (read_spec(run.checkpoint).task != "embedding")


def test_lineage_has_what_is_measured_when_tested_again(run: FitResult, command: Command) -> None:
    result = command("train", "test", run.checkpoint, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    recorded = read_spec(run.checkpoint).lineage.metrics
    assert document["metrics"] == {
        name.removeprefix("test_"): value for name, value in recorded.items() if name.startswith("test_")
    }
    assert recorded == run.metrics
    assert document["images"] == json.loads((run.run / "splits" / "data.json").read_text())["pictures"]["test"]


def test_lineage_tells_the_data_when_trained(run: FitResult) -> None:
    facts = json.loads((run.run / "splits" / "data.json").read_text())
    spec = read_spec(run.checkpoint)
    assert spec.lineage.data_fingerprint == facts["fingerprint"]
    assert list(spec.labels) == facts["labels"]
    assert set(facts["pictures"]) == set(PARTS)


def test_checkpoint_reproduces_its_golden_answers_when_opened(run: FitResult) -> None:
    golden = golden_of_run(run.checkpoint)
    with open_artifact(run.checkpoint) as runner:
        outputs = runner.infer(golden.images)
    assert set(outputs) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        if expected.dtype == np.uint8:
            assert (outputs[name] == expected).mean() > 0.999
        else:
            np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


def test_golden_targets_have_the_shape_of_the_truth_when_written(run: FitResult, case: str) -> None:
    golden = golden_of_run(run.checkpoint)
    count = len(golden.images)
    shapes = {name: target.shape for name, target in (golden.targets or {}).items()}
    assert (
        shapes
        == {
            "multilabel": {"probabilities": (count, 3)},
            "embedding": {"embedding": (count,)},
            "mined": {"embedding": (count,)},
            "segmentation": {"mask": (count, 64, 64)},
            "heads": {"digit": (count,), "round": (count,)},
        }[case]
    )
    assert set(shapes) == set(golden.outputs)


def test_config_is_the_same_when_read_again(run: FitResult) -> None:
    config = load_config(run.run / "config.yaml")
    assert read_spec(run.checkpoint).lineage.config == config.model_dump(mode="json")


def test_classes_of_val_are_unknown_to_train_when_embedding(run: FitResult) -> None:
    if read_spec(run.checkpoint).task != "embedding":
        pytest.skip("only embeddings are split by class")
    seen = [
        {line.rpartition(",")[2] for line in (run.run / "splits" / f"{part}.csv").read_text().split()[1:]}
        for part in ("train", "val", "test")
    ]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 8


def test_thresholds_are_the_models_when_configured(run: FitResult, case: str) -> None:
    assert read_spec(run.checkpoint).thresholds == ({"odd": 0.4} if case == "multilabel" else {})


def test_test_measures_other_pictures_when_given(
    run: FitResult, case: str, command: Command, make_masks: Callable[..., Path], tmp_path: Path
) -> None:
    if case != "segmentation":
        pytest.skip("once is enough for pictures with masks")
    masked = make_masks(tmp_path / "more", count=6)
    result = command(
        "train", "test", run.checkpoint, "--data", masked / "images", "--masks", masked / "masks", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 6


def test_predictions_of_a_fold_have_the_truths_and_probabilities_of_the_task(
    run: FitResult, case: str, tmp_path: Path
) -> None:
    spec = read_spec(run.checkpoint)
    images = LabelledImages.read(run.run / "splits", spec)
    answers = FoldAnswers(1, images.task, spec)
    with open_artifact(run.checkpoint) as runner:
        evaluation = images.evaluate(runner, answers.add)
    answers.save(tmp_path / PREDICTIONS_FILE)
    predictions = out_of_fold(tmp_path)
    assert len(predictions.images) == evaluation.images
    assert {path.exists() for path in predictions.images} == {True}
    expected = {"multilabel": {""}, "heads": {"digit", "round"}}.get(case, set())
    assert predictions.heads.keys() == expected
    for name, head in predictions.heads.items():
        assert head.probabilities.shape == head.truths.shape == (evaluation.images, len(head.labels))
        for label, truths in zip(head.labels, head.truths.T, strict=True):
            assert truths.sum() == evaluation.classes.get(f"{name}={label}" if name else label, 0)
    if case == "segmentation":
        with (tmp_path / PREDICTIONS_FILE).open(newline="") as file:
            assert {Path(row["truth"]).suffix for row in csv.DictReader(file)} == {".png"}
