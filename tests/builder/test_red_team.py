"""Faults that someone planted to get past the verdict: each is refused with its cause, in every task and format."""

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
from builder.export import ExportRequest, export
from builder.onnx.export import onnx_from_network
from builder.sources.base import NetworkSource
from builder.sources.images import builtin_golden
from builder.verification.context import CachingRunner, VerificationOptions
from builder.verification.verifier import verify_runner
from builder.verification.verify import verify_artifact
from tests.builder.test_tasks import QUESTIONS, as_faulty
from tritonkit.errors import CheckFailedError
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
def networks(network_of: Callable[..., Network]) -> dict[str, Network]:
    """A small network of each task; the answers of the first vary as those of a trained one."""
    labels = tuple(f"class {number}" for number in range(10))
    trained = network_of(TaskSpec(task="multiclass", labels=labels))
    calibrate(trained, builtin_golden(trained.spec.preprocess).images)
    return {"multiclass": trained, **{task: network_of(question) for task, question in QUESTIONS.items()}}


@pytest.fixture(scope="module")
def network(networks: dict[str, Network]) -> Network:
    return networks["multiclass"]


@pytest.fixture(scope="module")
def references(networks: dict[str, Network]) -> dict[str, Runner]:
    """The networks, each of which computes every batch once for all tests."""
    return {task: CachingRunner(TorchRunner(network, "the checkpoint")) for task, network in networks.items()}


@pytest.fixture(scope="module")
def reference(references: dict[str, Runner]) -> Runner:
    return references["multiclass"]


def problems(verdict: Verdict) -> str:
    return "\n".join(f"{problem.code}: {problem.message}" for problem in verdict.problems)


def judged(
    reference: Runner, candidate: Runner, max_batch: int = MAX_BATCH, preferred: tuple[int, ...] = ()
) -> Verdict:
    golden = builtin_golden(reference.spec.preprocess)
    return verify_runner(reference, candidate, golden, max_batch, "fp32", preferred=preferred)


class Gamma(Network):
    """Takes pictures of another gamma."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(255 * (images.float() / 255) ** 1.002)


class Flipped(Network):
    """Takes mirror images."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.flip(2))


class ShiftedByAPixel(Network):
    """Takes pictures moved to the right by one pixel."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.roll(1, dims=2))


class BatchCentred(Network):
    """Takes the mean of the batch from its pictures, as a preprocessing step that was left inside."""

    def logits(self, images: Tensor) -> Tensor:
        pixels = images.float()
        return super().logits(pixels - pixels.mean(dim=0, keepdim=True) / 100)


class LabelsSwapped(Network):
    """Gives the first two classes in each other's place."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        (given,) = super().answers(logits)
        return (torch.cat([given[:, [1, 0]], given[:, 2:]], dim=1),)


class SoftmaxTwice(Network):
    """Ends in a second softmax."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (super().answers(logits)[0].softmax(dim=1),)


class SoftmaxOverTheBatch(Network):
    """Normalises over the pictures, not over the classes."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits.softmax(dim=0),)


class SigmoidForSoftmax(Network):
    """Gives each class by itself."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits.sigmoid(),)


def with_other_std(network: Network) -> Network:
    red, green, blue = network.spec.normalize.std
    return network.with_normalize(network.spec.normalize.model_copy(update={"std": (red * 1.002, green, blue)}))


def with_last_layer(change: Callable[[Tensor, Tensor], None]) -> Callable[[Network], Network]:
    """Change the weight and the bias of the classifier in place, of a copy."""

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
    ("plant", "named"),
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
    network: Network, reference: Runner, plant: Callable[[Network], Network], named: str
) -> None:
    verdict = judged(reference, TorchRunner(plant(network), "x"), max_batch=4)
    assert not verdict.passed
    assert named in problems(verdict)


class Planted(Runner):
    """Answers as another does, changed by a fault."""

    def __init__(self, right: Runner, change: Change) -> None:
        self._right, self.spec, self.origin, self._change = right, right.spec, "planted", change

    def _infer(self, batch: ImageArray) -> Outputs:
        answers = {name: array.copy() for name, array in self._right.infer(batch).items()}
        return self._change(batch, answers)


def spoiled(outputs: Outputs, rows: np.ndarray) -> Outputs:
    """Another class, set of labels, direction and mask for some images."""
    for array in outputs.values():
        if array.dtype == np.uint8:
            array[rows] = 1 - array[rows]
        elif array.ndim == 2 and array.shape[1] > 1:
            array[rows] = np.roll(array[rows], 1, axis=1)
        else:
            array[rows] = 1 - array[rows]
    return outputs


def beyond_the_sample(batch: ImageArray, outputs: Outputs) -> Outputs:
    return spoiled(outputs, np.arange(len(batch)) >= 9)


def repeated(batch: ImageArray, outputs: Outputs) -> Outputs:
    """The first nine answers over and over."""
    return {name: array[np.arange(len(batch)) % 9] for name, array in outputs.items()}


def at_batch(size: int) -> Change:
    return lambda batch, outputs: spoiled(outputs, np.full(len(batch), len(batch) == size))


def of_mean(least: float, most: float) -> Change:
    def change(batch: ImageArray, outputs: Outputs) -> Outputs:
        means = batch.mean(axis=(1, 2, 3))
        return spoiled(outputs, (means >= least) & (means <= most))

    return change


def not_a_number(value: float, level: int) -> Change:
    """What no number is, where a whole picture has one level."""

    def change(batch: ImageArray, outputs: Outputs) -> Outputs:
        for array in outputs.values():
            if array.dtype != np.uint8:
                array[(batch == level).all(axis=(1, 2, 3))] = value
        return outputs

    return change


WRONG_POSITIONS = "verdict.batch_position: in a batch of 32 the outputs at positions 10 to 32 are wrong"
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
@pytest.mark.parametrize("task", ["multiclass", *QUESTIONS])
def test_fault_that_no_whole_sample_shows_is_refused_in_every_task(
    references: dict[str, Runner], task: str, fault: str
) -> None:
    change, named = BLIND[fault]
    verdict = judged(references[task], Planted(references[task], change))
    assert not verdict.passed
    assert named in problems(verdict)


@pytest.mark.parametrize("task", ["multiclass", *QUESTIONS])
def test_network_itself_passes_in_every_task(references: dict[str, Runner], task: str) -> None:
    verdict = judged(references[task], references[task])
    assert verdict.passed, problems(verdict)
    assert verdict.sizes == [1, 2, 3, 4, 8, 16, 32]
    assert verdict.of_probes is not None


@pytest.mark.parametrize(("value", "level", "kind"), [(np.nan, 0, "NaN"), (np.inf, 255, "infinity")])
def test_value_that_is_no_number_for_a_flat_picture_is_refused(
    reference: Runner, value: float, level: int, kind: str
) -> None:
    verdict = judged(reference, Planted(reference, not_a_number(value, level)))
    first = "black" if level == 0 else "white"
    assert f"verdict.nan: probes: output probabilities holds {kind} for 1 of 17 images, first for {first}" in problems(
        verdict
    )


def test_fault_at_a_preferred_batch_is_refused_when_the_server_prefers_it(reference: Runner) -> None:
    candidate = Planted(reference, at_batch(7))
    assert judged(reference, candidate).passed, "no sample shows all sizes"
    assert "verdict.batch: all outputs of a batch of 7 are wrong" in problems(
        judged(reference, candidate, preferred=(7,))
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_reduced_precision_may_decide_otherwise_about_probes_and_gives_no_nan(
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


def test_probe_that_the_checkpoint_has_no_answer_to_is_left_out_and_told(reference: Runner) -> None:
    both = Planted(reference, not_a_number(np.nan, 0))
    golden = builtin_golden(reference.spec.preprocess)
    verdict = verify_runner(both, both, golden, 4, "fp32")
    assert verdict.passed, problems(verdict)
    assert verdict.of_probes is not None
    assert verdict.of_probes.images == 16
    assert " black: " in verdict.notes[0]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Path:
    """The network's graph, for surgery."""
    path = tmp_path_factory.mktemp("red_team") / "model.onnx"
    onnx_from_network(network, path)
    return path


def end_with(model: onnx.ModelProto, nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> None:
    """Have nodes make `probabilities` of `right`, which is what the graph gave before."""
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
    axes, one = constant("planted_axes", TensorProto.INT64, [1, 2, 3]), constant("planted_one", TensorProto.INT64, [1])
    end_with(model, nodes, axes, one, constant("planted_zero", TensorProto.FLOAT, [0], []))


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
    plant, named = SURGERY[fault]
    model = onnx.load(graph)
    plant(model)
    artifact = tmp_path / "model.onnx"
    onnx.save(model, artifact)

    class Faulty(NetworkSource):
        def write_graph(self, path: Path) -> None:
            shutil.copyfile(artifact, path)

    source = Faulty(graph, None, "a test", network)
    assert named in problems(verify_artifact(artifact, source, MAX_BATCH, VerificationOptions()))
    with pytest.raises(CheckFailedError) as refused:
        export(source, ExportRequest(tmp_path / "repository", max_batch=8), lambda step: None)
    assert named in str(refused.value)
    assert not list(tmp_path.glob("repository/*/1"))
