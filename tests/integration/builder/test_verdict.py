"""The verdict passes a right graph, and reports the cause of each planted fault."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from builder.sources.base import TrainedReference
from builder.sources.images import builtin_golden
from builder.verification.verifier import quality_losses, verify_runner
from tests.faults import ChannelsSwapped, OnItsSide, as_faulty, problems
from tests.fixture_types import MakeNetwork
from tritonkit.comparison import compare
from tritonkit.golden import Golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Normalize, Outputs, TaskSpec
from tritonkit.tasks import task_for

MAX_BATCH = 4
Verify = Callable[..., Verdict]


class LabelsShifted(Network):
    """Outputs class k at position k + 1."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(image)[0].roll(1, dims=1),)


class DependsOnPosition(Network):
    """Adds the batch position to the first class."""

    def logits(self, images: Tensor) -> Tensor:
        raw = super().logits(images)
        position = torch.arange(raw.shape[0], dtype=raw.dtype)[:, None]
        return raw + position * torch.tensor([0.01, 0.0, 0.0])


class NanForBrightImages(Network):
    """Outputs NaN for bright images."""

    def logits(self, images: Tensor) -> Tensor:
        darkness = 110 - images.float().mean(dim=(1, 2, 3))
        return super().logits(images) + 0 * darkness.sqrt()[:, None]


class NanInAnotherOrder(Runner):
    """Outputs NaN where a batch begins with certain images."""

    def __init__(self, network: Network, images: ImageArray) -> None:
        self.right, self.images = TorchRunner(network, "x"), images
        self.spec, self.origin = network.spec, "x"

    def _infer(self, batch: ImageArray) -> Outputs:
        answers = self.right.infer(batch)
        spoiled = np.array_equal(batch[: len(self.images)], self.images)
        return {name: array * np.nan if spoiled else array for name, array in answers.items()}


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_verdict_passes_when_the_graph_is_right(
    make_network: MakeNetwork, verify_graph_of: Verify, architecture: str
) -> None:
    network = make_network(architecture)
    verdict = verify_graph_of(network, network)
    assert verdict.passed, problems(verdict)
    names = ["batch 1", "batch 3", "batch 8", "other order", "other colours"]
    assert [c.asked for c in verdict.comparisons] == [*names, "batch 2", "batch 4", "probes"]
    assert verdict.precision == "fp32"


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (ChannelsSwapped, "verdict.channels_swapped: "),
        (OnItsSide, "verdict.sides_swapped: "),
        (LabelsShifted, "verdict.labels_shifted: labels are shifted by +1"),
        (DependsOnPosition, "verdict.batch_position: "),
        (NanForBrightImages, "verdict.nan: batch 1: output probabilities holds NaN for"),
    ],
)
def test_verdict_names_the_fault_when_the_graph_has_one(
    network: Network, verify_graph_of: Verify, kind: type[Network], cause: str
) -> None:
    verdict = verify_graph_of(as_faulty(kind, network), network)
    assert not verdict.passed
    assert cause in problems(verdict)


@pytest.mark.parametrize(
    "normalize",
    [
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        Normalize(mean=(0.51, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.33)),
    ],
)
def test_verdict_names_normalisation_when_mean_or_std_is_wrong(
    network: Network, verify_graph_of: Verify, normalize: Normalize
) -> None:
    verdict = verify_graph_of(network.with_normalize(normalize), network)
    assert "verdict.normalization: " in problems(verdict)


def test_verdict_names_the_tensor_when_a_weight_is_zeroed(make_network: MakeNetwork, verify_graph_of: Verify) -> None:
    network = make_network("test_vit")
    damaged = copy.deepcopy(network)
    with torch.no_grad():
        damaged.get_parameter("backbone.blocks.0.norm1.weight").zero_()
    verdict = verify_graph_of(damaged, network)
    assert "verdict.weight_zero: weight tensor backbone.blocks.0.norm1.weight [64]" in problems(verdict)


def test_verdict_names_another_checkpoint_when_all_weights_differ(network: Network, verify_graph_of: Verify) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
    assert "verdict.other_checkpoint: " in problems(verify_graph_of(other, network))


def test_verdict_names_the_batch_axis_when_it_is_fixed(network: Network, verify_graph_of: Verify) -> None:
    def fix_batch(path: Path) -> None:
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(model, path)

    verdict = verify_graph_of(network, network, fix_batch)
    assert "verdict.batch: the batch axis is fixed: a batch of 1 works, a batch of 3, 8 fails" in problems(verdict)
    assert "verdict.interface:" in problems(verdict)


def test_verdict_fails_when_one_weight_of_the_file_is_nan(network: Network, verify_graph_of: Verify) -> None:
    def spoil(path: Path) -> None:
        model = onnx.load(path)
        tensor = next(t for t in model.graph.initializer if t.name.endswith("fc.weight"))
        array = numpy_helper.to_array(tensor).copy()
        array[0, 0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(model, path)

    verdict = verify_graph_of(network, network, spoil)
    assert "verdict.nan: " in problems(verdict)
    assert "verdict.weight_not_finite: weight tensor backbone.fc.weight" in problems(verdict)


def test_verdict_fails_when_the_output_has_another_name(network: Network, verify_graph_of: Verify) -> None:
    def rename(path: Path) -> None:
        model = onnx.load(path)
        old, model.graph.output[0].name = model.graph.output[0].name, "scores"
        for node in model.graph.node:
            node.output[:] = ["scores" if name == old else name for name in node.output]
        onnx.save(model, path)

    assert "verdict.interface: has no output 'probabilities'" in problems(verify_graph_of(network, network, rename))


def test_verdict_finds_swapped_channels_when_all_images_are_grey(network: Network) -> None:
    images = (
        builtin_golden(network.spec.preprocess).images.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)
    )
    swapped = TorchRunner(as_faulty(ChannelsSwapped, network), "x")
    verdict = verify_runner(TorchRunner(network, "x"), swapped, Golden(images, {}), MAX_BATCH, "fp32")
    assert "verdict.numbers: other colours: " in problems(verdict)
    assert "verdict.numbers: batch 1: " not in problems(verdict)


def test_verdict_fails_when_nan_occurs_only_in_reversed_order(network: Network) -> None:
    golden = builtin_golden(network.spec.preprocess)
    candidate = NanInAnotherOrder(network, golden.images[[-1, -2]])
    verdict = verify_runner(TorchRunner(network, "x"), candidate, golden, MAX_BATCH, "fp32")
    assert "verdict.nan: other order" in problems(verdict)


def test_metric_that_becomes_nan_is_lost() -> None:
    before = {"accuracy": 0.9, "iou/cat": 0.8, "iou/dog": math.nan}
    assert list(quality_losses(before, {"accuracy": 0.895, "iou/cat": 0.9, "iou/dog": math.nan}, 0.01)) == []
    losses = quality_losses(before, {"accuracy": 0.5, "iou/cat": math.nan, "iou/dog": math.nan}, 0.01)
    assert list(losses) == ["accuracy falls from 0.9000 to 0.5000", "iou/cat falls from 0.8000 to nan"]


def test_summary_shows_the_artifact_s_error_when_the_checkpoint_drifted_more_since_training(network: Network) -> None:
    reference, golden = TorchRunner(network, "x"), builtin_golden(network.spec.preprocess)
    answers = reference.infer(golden.images)["probabilities"]
    on_a_gpu = answers + np.float32(1e-3) * answers.std(axis=0)  # the same for all images, so no decision changes
    training = TrainedReference(reference, replace(golden, outputs={"probabilities": on_a_gpu}))
    verdict = verify_runner(reference, reference, golden, MAX_BATCH, "fp32", training)
    *artifact_comparisons, probes, drift = verdict.comparisons
    assert verdict.passed, verdict.summary()
    assert (verdict.artifact_comparisons, verdict.of_probes) == (tuple(artifact_comparisons), probes)
    assert drift.max_abs > max(comparison.max_abs for comparison in artifact_comparisons)
    assert f"{drift.max_abs:.1e}" not in verdict.summary()
    assert verdict.relative is None or verdict.relative <= verdict.limits.relative


def test_verdict_fails_when_the_network_outputs_are_the_same_for_all_images(
    network: Network, verify_graph_of: Verify
) -> None:
    constant = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
    assert "verdict.reference_constant: " in problems(verify_graph_of(constant, constant))


def test_comparison_counts_a_tie_as_kept_and_a_changed_answer_as_lost() -> None:
    expected = {"probabilities": np.array([[0.5, 0.4999, 0.0001], [0.9, 0.1, 0.0]], np.float32)}
    actual = {"probabilities": np.array([[0.4999, 0.5, 0.0001], [0.1, 0.9, 0.0]], np.float32)}
    task = task_for(TaskSpec(task="multiclass", labels=("cat", "dog", "bird")))
    comparison = compare("batch 1", task, expected, actual)
    assert comparison.agreement == {"top1": 0.5}
    assert comparison.decisions_kept == 0.5
