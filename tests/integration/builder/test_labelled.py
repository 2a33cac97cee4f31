"""Quality on labelled images: it is measured, and the verdict checks it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import ClasswiseWrapper, MeanAbsoluteError, MeanMetric, Metric

from builder.onnx.export import onnx_from_network
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource, Source
from builder.verification.labelled import LabelledSet
from builder.verification.report import quality_tables
from tests import task_specs
from tests.fixture_types import Command, MakeNetwork, NetworkOf
from tritonkit.errors import InputError, Problem
from tritonkit.evaluation.evaluate import Evaluation, quality_problems
from tritonkit.evaluation.tasks import evaluation_task_of
from tritonkit.evaluation.tasks.metrics import HeadMeasures, Measures
from tritonkit.export_options import OutputOptions
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.tensorrt_plan import TRUST_VARIABLE
from tritonkit.spec import METADATA_KEY, ModelSpec, TaskSpec

FP32, INT8 = LIMITS["fp32"], LIMITS["int8"]
PASSED = Verdict(passed=True, precision="fp32", images="a test", max_batch=4, limits=FP32)
THREE = TaskSpec(task="segmentation", labels=("background", "stamp", "seal"))
TASK_SPECS = {**task_specs.TASK_SPECS, "segmentation": THREE}
HIGHER_IS_BETTER = {
    "multiclass": {"accuracy", "macro_f1", "auroc", "map", "f1/cat", "f1/dog", "f1/bird"},
    "multilabel": {"map", "macro_f1", "auroc", "f1/sky", "f1/grass"},
    "embedding": {"recall@1", "recall@5", "recall@10"},
    "segmentation": {"iou", "dice", "iou/background", "iou/stamp", "iou/seal"},
    "heads": {
        "mean",
        *(f"kind.{name}" for name in ("accuracy", "macro_f1", "auroc", "map", "f1/cat", "f1/dog", "f1/bird")),
        *(f"vector.recall@{k}" for k in (1, 5, 10)),
    },
}


def metrics_of(metrics: Mapping[str, float | None], images: int, classes: Mapping[str, int]) -> Evaluation:
    """The evaluation of a data set that does not exist."""
    return Evaluation(
        measured="x", data=Path("x"), part="test", images=images, classes=dict(classes), metrics=dict(metrics)
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve noise images as PNG, with the labels of every task, in one CSV."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        picture, mask = folder / f"{number}.png", folder / f"mask{number}.png"
        pixels = random.integers(0, 255, (64, 64, 3)) // (1 + number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(picture)
        Image.fromarray(random.integers(0, 3, (64, 64)).astype(np.uint8)).save(mask)
        label = ("cat", "dog", "bird")[number % 3]
        rows.append({"image_path": picture, "label": label, "kind": label, "vector": label, "mask_path": mask})
        rows[-1] |= {"labels": "|".join(("sky", "grass")[: number % 3]) or "|"}
    with (folder / "all.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "all.csv"


@dataclass(frozen=True)
class GraphSource(Source):
    """A source with an ONNX file and no network."""

    @property
    def spec(self) -> ModelSpec:
        return self.reference.spec

    @property
    def reference(self) -> Runner:
        return OnnxRuntimeRunner(self.path)

    def write_graph(self, path: Path) -> None:
        path.write_bytes(self.path.read_bytes())

    def with_output_options(self, options: OutputOptions) -> GraphSource:
        return self


@pytest.mark.parametrize("task", TASK_SPECS)
def test_artifact_keeps_the_quality_of_its_checkpoint_when_the_graph_is_right(
    task: str, network_of: NetworkOf, data: Path, tmp_path: Path
) -> None:
    network = network_of(TASK_SPECS[task])
    source = NetworkSource(tmp_path / "x.pth", None, "someone else's weights", network)
    onnx_from_network(network, tmp_path / "model.onnx")
    verdict = LabelledSet(source, data).with_quality(PASSED, tmp_path / "model.onnx")
    assert verdict.passed, verdict.problems
    assert list(verdict.quality) == [f"checkpoint on 12 pictures of {data}", f"artifact on 12 pictures of {data}"]
    before, after = verdict.quality.values()
    assert set(before) == HIGHER_IS_BETTER[task] == set(after)
    assert before == pytest.approx(after, abs=0.1)


def test_train_test_runs_a_graph_in_place_of_the_checkpoint(
    command: Command, make_network: MakeNetwork, data: Path, tmp_path: Path
) -> None:
    graph = tmp_path / "given.onnx"
    onnx_from_network(make_network("test_resnet"), graph)
    for source in ((), ("--from", graph)):
        result = command("train", "test", graph, *source, "--data", data, "--json")
        assert result.exit_code == 0, result.stderr
        metrics = json.loads(result.stdout)
        assert (metrics["images"], metrics["classes"]) == (12, {"cat": 4, "dog": 4, "bird": 4})
        assert set(metrics["metrics"]) == HIGHER_IS_BETTER["multiclass"]


def test_verdict_fails_when_an_artifact_loses_accuracy_on_labelled_images(
    network: Network, data: Path, tmp_path: Path
) -> None:
    onnx_from_network(network, tmp_path / "given.onnx")
    with torch.no_grad():
        network.backbone.get_classifier().weight.mul_(-1)
    onnx_from_network(network, tmp_path / "model.onnx")
    labelled = LabelledSet(GraphSource(tmp_path / "given.onnx", None, "a graph without a network"), data)
    verdict = labelled.with_quality(PASSED, tmp_path / "model.onnx")
    assert labelled.reference.classes == {"cat": 4, "dog": 4, "bird": 4}
    assert not verdict.passed
    assert {problem.code for problem in verdict.problems} == {"verdict.quality"}
    assert any("on 12 labelled images" in problem.message for problem in verdict.problems)


def test_labelled_images_that_do_not_fit_the_model_give_one_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "fish").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "fish" / "a.png")
    with pytest.raises(InputError, match=r"(?s)labels.*: fish") as caught:
        _ = LabelledSet(source_from_checkpoint(checkpoint), tmp_path).images
    assert caught.value.code == "data.invalid"


def test_output_options_of_the_export_are_measured(network_of: NetworkOf, data: Path, tmp_path: Path) -> None:
    network = network_of(TASK_SPECS["multilabel"])
    save_network(tmp_path / "asked.safetensors", network)
    asked = source_from_checkpoint(tmp_path / "asked.safetensors")
    never = asked.with_output_options(OutputOptions(threshold=0.999))
    assert LabelledSet(never, data).images.spec.thresholds == {"sky": 0.999, "grass": 0.999}
    assert LabelledSet(never, data).reference.metrics["macro_f1"] == 0
    assert LabelledSet(asked.with_output_options(OutputOptions(threshold=0.001)), data).reference.metrics["macro_f1"]


@pytest.mark.parametrize("task", TASK_SPECS)
def test_every_metric_of_a_task_is_checked(task: str, network_of: NetworkOf) -> None:
    spec = network_of(TASK_SPECS[task]).spec
    names = HIGHER_IS_BETTER[task]
    assert evaluation_task_of(spec).monitor in names
    counts = dict.fromkeys(("cat", "dog", "bird", "kind=cat", "kind=dog", "kind=bird", "sky", "grass"), 100)
    before = metrics_of(dict.fromkeys(names, 0.9), 1000, counts)
    assert quality_problems(before, before, INT8) == []
    for name in names:
        after = metrics_of({**before.metrics, name: 0.7}, 1000, counts)
        (problem,) = quality_problems(before, after, INT8)
        assert problem.code == "verdict.quality"
        assert problem.message.startswith(f"{name} falls from 0.9000 to 0.7000 on 1000 labelled images")


def test_loss_of_a_few_images_is_tolerated() -> None:
    before = metrics_of({"accuracy": 0.9, "f1/rare": 0.8, "f1/common": 0.8}, 1000, {"rare": 5, "common": 900})
    after = metrics_of({"accuracy": 0.899, "f1/rare": 0.4, "f1/common": 0.799}, 1000, {})
    assert quality_problems(before, after, FP32) == []
    more = metrics_of({"accuracy": 0.898, "f1/rare": 0.1, "f1/common": 0.79}, 1000, {})
    assert [problem.message.split()[0] for problem in quality_problems(before, more, FP32)] == [
        "accuracy",
        "f1/rare",
        "f1/common",
    ]


def test_error_is_a_problem_when_it_rises_and_not_when_it_falls() -> None:
    def update(name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: Tensor) -> None:
        metric.update(outputs["count"], targets)

    by_class = ClasswiseWrapper(MeanAbsoluteError(num_outputs=2), ["cat", "dog"], "mae/")
    measures = Measures({"exact": MeanMetric(), "mae": MeanAbsoluteError(), "mae_by_class": by_class}, update)
    heads = HeadMeasures({"count": measures}, {"count": "exact"})
    heads.update({"count": torch.ones(1, 2)}, {"count": torch.zeros(1, 2)})
    errors = frozenset(heads.lower_is_better())
    assert errors == {"count.mae", "count.mae/cat", "count.mae/dog"}
    before = metrics_of({"count.exact": 0.9, "count.mae": 0.5, "count.mae/cat": 40}, 1000, {})
    before = before.model_copy(update={"lower_is_better": errors})
    better = {"count.exact": 0.9, "count.mae": 0.3, "count.mae/cat": 40.01}
    assert quality_problems(before, metrics_of(better, 1000, {}), FP32) == []
    (problem,) = quality_problems(before, metrics_of({**better, "count.mae": 0.7}, 1000, {}), FP32)
    assert problem.message.startswith("count.mae rises from 0.5000 to 0.7000 on 1000 labelled images")


def test_losses_and_nan_metrics_are_not_checked_but_a_missing_metric_is() -> None:
    before = metrics_of({"own.loss": 2, "val_loss": 2, "map": None, "auroc": 0.5, "f1/loss": 0.5}, 100, {})
    after = metrics_of({"own.loss": 1, "val_loss": 1, "map": 0.5, "auroc": None, "f1/loss": 0.1}, 100, {})
    metrics = [problem.message.split()[0] for problem in quality_problems(before, after, FP32)]
    assert metrics == ["auroc", "f1/loss"]


def test_nothing_is_measured_when_the_artifact_has_no_valid_outputs(checkpoint: Path, tmp_path: Path) -> None:
    broken = PASSED.model_copy(update={"passed": False, "problems": (Problem("verdict.nan", "x"),)})
    labelled = LabelledSet(source_from_checkpoint(checkpoint), tmp_path)
    assert labelled.with_quality(broken, tmp_path / "no.onnx") == broken


@pytest.mark.parametrize(("target", "engine"), [("trt", "model.plan"), ("rtx", "model.rtx")])
def test_verdict_says_so_when_the_graph_was_measured_in_place_of_a_plan(
    target: str, engine: str, network: Network, data: Path, tmp_path: Path
) -> None:
    onnx_from_network(network, tmp_path / "graph.onnx")
    artifact_verdict = PASSED.model_copy(update={"format": target, "proven_by": "the plan itself"})
    source = NetworkSource(tmp_path / "x.pth", None, "a network", network)
    verdict = LabelledSet(source, data).with_quality(artifact_verdict, tmp_path / "graph.onnx")
    images = f"12 pictures of {data} (its graph was run in place of {engine})"
    assert list(verdict.quality) == [f"checkpoint on {images}", f"artifact on {images}"]
    assert verdict.proven_by == f"the plan itself; on the labelled images its graph was run, not {engine}"
    assert [quality.measured_on for quality in quality_tables(verdict)] == [images]


def test_torchscript_file_that_was_just_built_is_measured(
    network: Network, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    traced = torch.jit.trace(network, torch.zeros(2, *network.spec.input.shape, dtype=torch.uint8))
    torch.jit.save(traced, tmp_path / "model.pt", _extra_files={METADATA_KEY: network.spec.to_json()})
    source = NetworkSource(tmp_path / "x.pth", None, "a network", network)
    verdict = LabelledSet(source, data).with_quality(
        PASSED.model_copy(update={"format": "torchscript"}), tmp_path / "model.pt"
    )
    assert verdict.passed, verdict.problems
    assert TRUST_VARIABLE not in os.environ


def test_export_prints_the_metrics_and_refuses_wrong_data_before_it_builds(
    command: Command, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    words = ("builder", "export", checkpoint, "--repository", tmp_path / "repository", "--max-batch", "2")
    done = command(*words, "--data", data)
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.partition(f"measured on 12 pictures of {data}:\n")[2].splitlines()]
    assert rows[0] == ["metric", "checkpoint", "artifact"]
    accuracy = next(row for row in rows if row[0] == "accuracy")
    assert accuracy[1] == accuracy[2]
    wrong = command(*words, "--data", tmp_path / "nowhere")
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.stderr
    assert "exporting to ONNX" not in wrong.stderr
