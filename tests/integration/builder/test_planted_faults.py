"""Faults planted to pass the verdict: each is refused with its cause, in every task and format."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from benchmarks.studies.calibration import calibrate
from builder.onnx.export import onnx_from_network
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources.base import NetworkSource
from builder.sources.images import builtin_golden
from builder.verification.context import CachingRunner
from builder.verification.verifier import verify_runner
from builder.verification.verify import verify_artifact
from tests.faults import as_faulty, problems
from tests.fixture_types import NetworkOf
from tests.integration.builder.test_tasks import TASK_SPECS
from tritonkit.errors import CheckFailedError
from tritonkit.export_options import VerificationOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.images.probes import probes_of
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Outputs, TaskSpec

MAX_BATCH = 32
Change = Callable[[ImageArray, Outputs], Outputs]


@pytest.fixture(scope="module")
def networks(network_of: NetworkOf) -> dict[str, Network]:
    """A small network of each task; the outputs of the first vary like those of a trained one."""
    labels = tuple(f"class {number}" for number in range(10))
    trained = network_of(TaskSpec(task="multiclass", labels=labels))
    calibrate(trained, builtin_golden(trained.spec.preprocess).images)
    return {"multiclass": trained, **{task: network_of(task_spec) for task, task_spec in TASK_SPECS.items()}}


@pytest.fixture(scope="module")
def network(networks: dict[str, Network]) -> Network:
    return networks["multiclass"]


@pytest.fixture(scope="module")
def references(networks: dict[str, Network]) -> dict[str, Runner]:
    """A caching runner of each network."""
    return {task: CachingRunner(TorchRunner(network, "the checkpoint")) for task, network in networks.items()}


@pytest.fixture(scope="module")
def reference(references: dict[str, Runner]) -> Runner:
    return references["multiclass"]


def verdict_of(
    reference: Runner, candidate: Runner, max_batch: int = MAX_BATCH, preferred: tuple[int, ...] = ()
) -> Verdict:
    golden = builtin_golden(reference.spec.preprocess)
    return verify_runner(reference, candidate, golden, max_batch, "fp32", preferred=preferred)


class Gamma(Network):
    """Expects images with another gamma."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(255 * (images.float() / 255) ** 1.002)


class Flipped(Network):
    """Expects mirrored images."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.flip(2))


class ShiftedByAPixel(Network):
    """Expects images shifted to the right by one pixel."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.roll(1, dims=2))


class BatchCentred(Network):
    """Subtracts the mean of the batch, like a preprocessing step left in the graph."""

    def logits(self, images: Tensor) -> Tensor:
        pixels = images.float()
        return super().logits(pixels - pixels.mean(dim=0, keepdim=True) / 100)


class LabelsSwapped(Network):
    """Swaps the first two classes."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        (onnx_path,) = super().answers(logits)
        return (torch.cat([onnx_path[:, [1, 0]], onnx_path[:, 2:]], dim=1),)


class SoftmaxTwice(Network):
    """Applies softmax twice."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (super().answers(logits)[0].softmax(dim=1),)


class SoftmaxOverTheBatch(Network):
    """Applies softmax over the images, not over the classes."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits.softmax(dim=0),)


class SigmoidForSoftmax(Network):
    """Applies a sigmoid instead of softmax."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits.sigmoid(),)


def with_other_std(network: Network) -> Network:
    red, green, blue = network.spec.normalize.std
    return network.with_normalize(network.spec.normalize.model_copy(update={"std": (red * 1.002, green, blue)}))


def with_last_layer(change: Callable[[Tensor, Tensor], None]) -> Callable[[Network], Network]:
    """A fault that changes weight and bias of the last layer in a copy of the network."""

    def planted(network: Network) -> Network:
        damaged = copy.deepcopy(network)
        with torch.no_grad():
            change(damaged.get_parameter("backbone.fc.weight"), damaged.get_parameter("backbone.fc.bias"))
        return damaged

    return planted


def zero_class(weight: Tensor, bias: Tensor) -> None:
    weight[2], bias[2] = 0, 0


def copy_class(weight: Tensor, bias: Tensor) -> None:
    weight[2], bias[2] = weight[1], bias[1]


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (lambda n: as_faulty(Gamma, n), "verdict.numbers: batch 1: "),
        (with_other_std, "verdict.numbers: batch 1: "),
        (lambda n: as_faulty(LabelsSwapped, n), "verdict.decisions: batch 1"),
        (with_last_layer(lambda weight, bias: bias.zero_()), "verdict.numbers: batch 1: "),
        (with_last_layer(zero_class), "verdict.numbers: batch 1: "),
        (with_last_layer(copy_class), "verdict.numbers: batch 1: "),
        (lambda n: as_faulty(SoftmaxTwice, n), "verdict.numbers: batch 1: "),
        (lambda n: as_faulty(SoftmaxOverTheBatch, n), "verdict.answers: "),
        (lambda n: as_faulty(SigmoidForSoftmax, n), "verdict.answers: "),
        (lambda n: as_faulty(Flipped, n), "verdict.numbers: batch 1: "),
        (lambda n: as_faulty(ShiftedByAPixel, n), "verdict.numbers: batch 1: "),
        (lambda n: as_faulty(BatchCentred, n), "verdict.numbers: batch 1: "),
    ],
    ids=[
        *("gamma", "std", "labels-swapped", "bias-dropped", "class-zeroed", "class-copied", "softmax-twice"),
        *("softmax-over-batch", "sigmoid", "flip", "shift", "batch-centred"),
    ],
)
def test_small_fault_of_the_whole_graph_is_refused(
    network: Network, reference: Runner, plant: Callable[[Network], Network], cause: str
) -> None:
    verdict = verdict_of(reference, TorchRunner(plant(network), "x"), max_batch=4)
    assert not verdict.passed
    assert cause in problems(verdict)


class Planted(Runner):
    """Runs another runner and changes its outputs by a fault."""

    def __init__(self, right: Runner, change: Change) -> None:
        self._right, self.spec, self.origin, self._change = right, right.spec, "planted", change

    def _infer(self, batch: ImageArray) -> Outputs:
        answers = {name: array.copy() for name, array in self._right.infer(batch).items()}
        return self._change(batch, answers)


def change_rows(outputs: Outputs, rows: np.ndarray) -> Outputs:
    """Change class, set of labels, direction and mask of some images."""
    for array in outputs.values():
        if array.dtype == np.uint8:
            array[rows] = 1 - array[rows]
        elif array.ndim == 2 and array.shape[1] > 1:
            array[rows] = np.roll(array[rows], 1, axis=1)
        else:
            array[rows] = 1 - array[rows]
    return outputs


def beyond_the_sample(batch: ImageArray, outputs: Outputs) -> Outputs:
    return change_rows(outputs, np.arange(len(batch)) >= 9)


def repeated(batch: ImageArray, outputs: Outputs) -> Outputs:
    """Repeat the first nine outputs."""
    return {name: array[np.arange(len(batch)) % 9] for name, array in outputs.items()}


def at_batch(size: int) -> Change:
    return lambda batch, outputs: change_rows(outputs, np.full(len(batch), len(batch) == size))


def of_mean(minimum: float, maximum: float) -> Change:
    def change(batch: ImageArray, outputs: Outputs) -> Outputs:
        means = batch.mean(axis=(1, 2, 3))
        return change_rows(outputs, (means >= minimum) & (means <= maximum))

    return change


def not_a_number(value: float, level: int) -> Change:
    """A fault that outputs NaN or infinity for flat images of one level."""

    def change(batch: ImageArray, outputs: Outputs) -> Outputs:
        for array in outputs.values():
            if array.dtype != np.uint8:
                array[(batch == level).all(axis=(1, 2, 3))] = value
        return outputs

    return change


BLIND = {
    "positions": (
        beyond_the_sample,
        "verdict.batch_position: in a batch of 32 the outputs at positions 10 to 32 are wrong",
    ),
    "repeated": (repeated, "verdict.batch_position: in a batch of 32 the outputs at positions 10 to 32 are wrong"),
    "batch-2": (at_batch(2), "verdict.batch: all outputs of a batch of 2 are wrong"),
    "batch-16": (at_batch(16), "verdict.batch: all outputs of a batch of 16 are wrong"),
    "black": (of_mean(0, 0), "probes"),
    "dark": (of_mean(0, 10), "probes"),
    "bright": (of_mean(200, 255), "probes"),
}


@pytest.mark.parametrize("fault", BLIND)
@pytest.mark.parametrize("task", ["multiclass", *TASK_SPECS])
def test_fault_in_single_images_or_batch_sizes_is_refused_in_every_task(
    references: dict[str, Runner], task: str, fault: str
) -> None:
    change, cause = BLIND[fault]
    verdict = verdict_of(references[task], Planted(references[task], change))
    assert not verdict.passed
    assert cause in problems(verdict)


@pytest.mark.parametrize("task", ["multiclass", *TASK_SPECS])
def test_network_itself_passes_in_every_task(references: dict[str, Runner], task: str) -> None:
    verdict = verdict_of(references[task], references[task])
    assert verdict.passed, problems(verdict)
    assert verdict.sizes == [1, 2, 3, 4, 8, 16, 32]
    assert verdict.of_probes is not None


@pytest.mark.parametrize(("value", "level", "kind"), [(np.nan, 0, "NaN"), (np.inf, 255, "infinity")])
def test_nan_for_a_flat_image_is_refused(reference: Runner, value: float, level: int, kind: str) -> None:
    verdict = verdict_of(reference, Planted(reference, not_a_number(value, level)))
    first = "black" if level == 0 else "white"
    assert f"verdict.nan: probes: output probabilities holds {kind} for 1 of 17 images, first for {first}" in problems(
        verdict
    )


def test_fault_at_a_preferred_batch_is_refused(reference: Runner) -> None:
    candidate = Planted(reference, at_batch(7))
    assert verdict_of(reference, candidate).passed, "no sample shows all sizes"
    assert "verdict.batch: all outputs of a batch of 7 are wrong" in problems(
        verdict_of(reference, candidate, preferred=(7,))
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_reduced_precision_may_change_decisions_on_probes_but_not_give_nan(
    reference: Runner, precision: Precision
) -> None:
    golden = builtin_golden(reference.spec.preprocess)
    noise = probes_of(golden.images)["noise"]

    def nearly(batch: ImageArray, outputs: Outputs) -> Outputs:
        rows = (batch == noise).all(axis=(1, 2, 3))
        array = outputs["probabilities"]
        array[rows] = array[rows] * 0.95 + 0.05 / array.shape[1]
        return outputs

    limits = LIMITS[precision]
    assert verify_runner(reference, Planted(reference, nearly), golden, 8, precision, limits=limits).passed
    broken = verify_runner(reference, Planted(reference, not_a_number(np.nan, 0)), golden, 8, precision, limits=limits)
    assert "verdict.nan: probes" in problems(broken)


def test_probe_without_a_valid_checkpoint_output_is_skipped_with_a_note(reference: Runner) -> None:
    runners = Planted(reference, not_a_number(np.nan, 0))
    golden = builtin_golden(reference.spec.preprocess)
    verdict = verify_runner(runners, runners, golden, 4, "fp32")
    assert verdict.passed, problems(verdict)
    assert verdict.of_probes is not None
    assert verdict.of_probes.images == 16
    assert " black: " in verdict.notes[0]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Path:
    """The network's graph, to be edited."""
    path = tmp_path_factory.mktemp("red_team") / "model.onnx"
    onnx_from_network(network, path)
    return path


def end_with(model: onnx.ModelProto, nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> None:
    """Add nodes that compute `probabilities` from `right`, the former output."""
    for node in model.graph.node:
        node.output[:] = ["right" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["right" if name == "probabilities" else name for name in node.input]
    model.graph.initializer.extend(constants)
    model.graph.node.extend(nodes)


def constant(name: str, kind: int, values: list[int], dims: list[int] | None = None) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, [len(values)] if dims is None else dims, values)


def nan_for_black(model: onnx.ModelProto) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["planted_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["planted_float", "planted_axes"], ["planted_mean"], keepdims=0),
        helper.make_node("Log", ["planted_mean"], ["planted_log"]),
        helper.make_node("Mul", ["planted_log", "planted_zero"], ["planted_nothing"]),
        helper.make_node("Unsqueeze", ["planted_nothing", "planted_one"], ["planted_column"]),
        helper.make_node("Add", ["right", "planted_column"], ["probabilities"]),
    ]
    axes, one_value = (
        constant("planted_axes", TensorProto.INT64, [1, 2, 3]),
        constant("planted_one", TensorProto.INT64, [1]),
    )
    end_with(model, nodes, axes, one_value, constant("planted_zero", TensorProto.FLOAT, [0], []))


def wrong_at_batch_two(model: onnx.ModelProto) -> None:
    nodes = [
        helper.make_node("Shape", ["right"], ["planted_count"], start=0, end=1),
        helper.make_node("Equal", ["planted_count", "planted_two"], ["planted_is_two"]),
        helper.make_node(
            "Slice", ["right", "planted_last", "planted_before", "planted_axis", "planted_last"], ["planted_turned"]
        ),
        helper.make_node("Where", ["planted_is_two", "planted_turned", "right"], ["probabilities"]),
    ]
    numbers = {"two": 2, "last": -1, "before": -(2**31), "axis": 1}
    end_with(model, nodes, *(constant(f"planted_{name}", TensorProto.INT64, [n]) for name, n in numbers.items()))


SURGERY = {
    "nan-for-black": (nan_for_black, "verdict.nan: probes: output probabilities holds NaN"),
    "batch-2": (wrong_at_batch_two, "verdict.batch: all outputs of a batch of 2 are wrong"),
}


@pytest.mark.parametrize("fault", SURGERY)
def test_fault_in_a_graph_is_refused_by_verify_and_by_export(
    network: Network, graph: Path, tmp_path: Path, fault: str
) -> None:
    plant, cause = SURGERY[fault]
    model = onnx.load(graph)
    plant(model)
    artifact = tmp_path / "model.onnx"
    onnx.save(model, artifact)

    class Faulty(NetworkSource):
        def write_graph(self, path: Path) -> None:
            shutil.copyfile(artifact, path)

    source = Faulty(graph, None, "a test", network)
    assert cause in problems(verify_artifact(artifact, source, MAX_BATCH, VerificationOptions()))
    with pytest.raises(CheckFailedError) as refused:
        export(ExportRequest(source=source, repository=tmp_path / "repository", max_batch=8))
    assert cause in str(refused.value)
    assert not list(tmp_path.glob("repository/*/1"))
