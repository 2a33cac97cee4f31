"""An auxiliary head from the training to the published model."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from builder.pipeline import PublishedVersion, export
from builder.request import ExportRequest
from client.check_reference import ReferenceFiles
from tests.errors import raises
from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig, golden_of_run
from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from train.evaluate import evaluate
from train.experiments.out_of_fold import FoldAnswers
from tritonkit.checkpoint import read_spec
from tritonkit.errors import InputError
from tritonkit.evaluation.evaluate import LabelledImages
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.images.preprocess import load_file
from tritonkit.runtimes import open_artifact
from tritonkit.sketch import SKETCH_FILE, Sketch
from tritonkit.spec import ModelSpec

HEADS = {
    "digit": {"task": "multiclass", "column": "label"},
    "turn": {"task": "augmentation", "operation": "rotation", "weight": 0.5},
}


@pytest.fixture(scope="module")
def run(copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """Digits that look different upside down."""
    root = tmp_path_factory.mktemp("auxiliary")
    data = copy_digits(root / "data", labels="247", count=60)
    augment = {"flip": 0, "color": 0, "rotate": 5}
    config = write_config(root / "config.yaml", data, task="heads", heads=HEADS, epochs=10, augment=augment)
    return fit(load_config(config))


@pytest.fixture(scope="module")
def dropped(run: FitResult, tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    """The run as it is exported by default."""
    repository = tmp_path_factory.mktemp("dropped")
    return export(ExportRequest(source=run.checkpoint, repository=repository, max_batch=8, data=run.run / "splits"))


@pytest.fixture(scope="module")
def kept(run: FitResult, tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    """The run with all its outputs."""
    request = ExportRequest(
        source=run.checkpoint,
        repository=tmp_path_factory.mktemp("kept"),
        max_batch=8,
        auxiliary="keep",
        encoded=False,
    )
    return export(request)


def outputs_of(published: PublishedVersion) -> list[str]:
    return [output.name for output in onnx.load(published.artifact).graph.output]


def test_auxiliary_head_beats_chance_and_has_its_own_confusion_matrix(run: FitResult) -> None:
    turn, digit = run.metrics["val_turn.accuracy"], run.metrics["val_digit.accuracy"]
    assert turn is not None
    assert digit is not None
    assert turn > 0.5  # chance is a quarter
    assert run.metrics["val_mean"] == pytest.approx(digit)  # of the main heads, which select the best epoch
    assert (run.run / "confusion.turn.png").is_file()
    rows = list(csv.DictReader((run.run / "confusion" / "010.turn.csv").read_text().splitlines()))
    truths = Counter({row["truth"]: 0 for row in rows})
    for row in rows:
        truths[row["truth"]] += int(row["images"])
    assert list(truths.values()) == [9, 9, 9, 9]  # 36 images of val, each operation in turn
    assert "turn" not in (run.run / "splits" / "val.csv").read_text().splitlines()[0]


def test_main_head_is_measured_on_unchanged_images(run: FitResult) -> None:
    rows = list(csv.DictReader((run.run / "splits" / "val.csv").read_text().splitlines()))
    spec = read_spec(run.checkpoint)
    images = np.stack([load_file(Path(row["image_path"]), spec.preprocess)[0] for row in rows])
    with open_artifact(run.checkpoint) as runner:
        answers = runner.infer(images)
    labels = spec.heads["digit"].labels
    correct = [labels[index] == row["label"] for index, row in zip(answers["digit"].argmax(1), rows, strict=True)]
    assert np.mean(correct) == pytest.approx(run.metrics["val_digit.accuracy"], abs=1e-6)
    golden = golden_of_run(run.checkpoint)
    assert not golden.targets["turn"].any()  # the golden images are unchanged


def test_predictions_and_answers_leave_the_head_out(run: FitResult, command: Command, tmp_path: Path) -> None:
    spec = read_spec(run.checkpoint)
    with open_artifact(run.checkpoint) as runner:
        images = LabelledImages.read(run.run / "splits", spec)
        answers = FoldAnswers(1, images.task, spec)
        images.evaluate(runner, answers.add)
    answers.save(tmp_path / "predictions.csv")
    assert "turn" not in (tmp_path / "predictions.csv").read_text().splitlines()[0]
    result = command("train", "embed", run.checkpoint, "--output", tmp_path / "v.npz")
    assert result.exit_code == 0, result.output
    written = np.load(tmp_path / "v.npz")
    assert set(written["answer"]) <= set(written["label"]) == {"digit=2", "digit=4", "digit=7"}


def test_export_drops_the_head_with_a_passed_verdict(dropped: PublishedVersion, run: FitResult) -> None:
    assert outputs_of(dropped) == ["digit"]
    assert dropped.verdict.passed
    assert not [name for name in dropped.verdict.quality or {} if "turn" in name]
    spec = ModelSpec.read(dropped.artifact.parent)
    assert spec is not None
    assert list(spec.heads) == ["digit"]
    golden = Golden.load(dropped.artifact.parent / GOLDEN_FILE)
    assert golden.outputs.keys() == golden.targets.keys() == {"digit"}
    assert Sketch.load(dropped.artifact.with_name(SKETCH_FILE)).outputs.keys() == {"digit"}
    assert "turn_head" not in str(onnx.load(dropped.artifact).graph.initializer)
    original = golden_of_run(run.checkpoint)
    np.testing.assert_allclose(golden.outputs["digit"], original.outputs["digit"], atol=1e-5)


def test_export_keeps_the_head_when_asked(kept: PublishedVersion) -> None:
    assert outputs_of(kept) == ["digit", "turn"]
    assert kept.verdict.passed
    assert Golden.load(kept.artifact.parent / GOLDEN_FILE).outputs.keys() == {"digit", "turn"}


def test_exports_are_verified_and_measured_as_their_checkpoint(
    run: FitResult, dropped: PublishedVersion, kept: PublishedVersion, command: Command
) -> None:
    result = command("builder", "verify", dropped.artifact, "--against", run.checkpoint, "--json")
    assert result.exit_code == 0, result.output
    result = command("builder", "verify", kept.artifact, "--against", run.checkpoint, "--auxiliary", "keep", "--json")
    assert result.exit_code == 0, result.output
    expected = evaluate(run.checkpoint).metrics
    with open_artifact(kept.artifact) as runner:
        assert evaluate(run.checkpoint, runner=runner).metrics == pytest.approx(expected, abs=1e-4)
    result = command("train", "test", run.checkpoint, "--from", dropped.artifact, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["metrics"]
    assert measured == pytest.approx({name: expected[name] for name in measured}, abs=1e-4)
    assert not [name for name in measured if name.startswith("turn")]


def test_checkpoint_is_a_reference_for_the_served_model_without_the_head(
    run: FitResult, dropped: PublishedVersion
) -> None:
    spec = ModelSpec.read(dropped.artifact.parent)
    served: Any = SimpleNamespace(model="tiny", version="1", origin="Triton", spec=spec)
    files = ReferenceFiles(checkpoint=run.checkpoint, repository=dropped.artifact.parents[2])
    assert files.load(served).golden.outputs.keys() == {"digit"}


def test_option_is_refused_when_there_is_no_auxiliary_head(checkpoint: Path, tmp_path: Path) -> None:
    with raises(InputError, "option.auxiliary_unused"):
        export(ExportRequest(source=checkpoint, repository=tmp_path / "repository", auxiliary="keep"))
