"""`train quantize`: fine-tuning with fake quantization, on the run's own images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from builder.onnx.export import onnx_from_network
from builder.onnx.wiring import flattened
from builder.precision.quantize import quantize_graph
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import golden_of_run
from train.config.loading import load_config
from train.engine.fit import FitResult, fit
from train.quantize import QuantizeResult, quantize
from tritonkit.checkpoint import read_spec, read_weights
from tritonkit.networks.network import load_network
from tritonkit.runtimes.formats import Dialect
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

RATE = "optimizer.lr=0.002"


@pytest.fixture(scope="module")
def quantized(trained: FitResult, tmp_path_factory: pytest.TempPathFactory) -> QuantizeResult:
    output = tmp_path_factory.mktemp("quantized")
    return quantize(trained.checkpoint, epochs=2, overrides=[f"output={output}", RATE])


def int8_errors(checkpoint: Path, folder: Path) -> dict[Dialect, float]:
    """The mean error of the int8 graphs' answers to the golden images of the run, on which they are calibrated."""
    onnx_from_network(load_network(checkpoint), folder / "fp32.onnx")
    graph, golden, errors = flattened(onnx.load(folder / "fp32.onnx")), golden_of_run(checkpoint), {}
    dialects: tuple[Dialect, ...] = ("onnxruntime", "tensorrt")
    for dialect in dialects:
        onnx.save(quantize_graph(graph, golden.images, dialect), folder / "int8.onnx")
        with OnnxRuntimeRunner(folder / "int8.onnx", spec=read_spec(checkpoint)) as runner:
            (answers,), (expected,) = runner.infer(golden.images).values(), golden.outputs.values()
        errors[dialect] = float(np.abs(answers - expected).mean())
    return errors


def test_int8_graphs_answer_as_the_network_when_trained_with_fake_quantization(
    quantized: QuantizeResult, tmp_path: Path
) -> None:
    """Probabilities of three classes: answers that have nothing to do with the network's differ by about 0.4."""
    errors = int8_errors(quantized.checkpoint, tmp_path)
    assert max(errors.values()) < 0.1, errors


def test_result_is_a_normal_run_of_the_same_network_when_quantized(
    trained: FitResult, quantized: QuantizeResult
) -> None:
    old, new = read_spec(trained.checkpoint), read_spec(quantized.checkpoint)
    assert new.lineage.parent == str(trained.checkpoint)
    assert new.lineage.config["quantization"] == {"activations": "uint8"}
    assert new.model_copy(update={"lineage": old.lineage}) == old
    weights = read_weights(trained.checkpoint), read_weights(quantized.checkpoint)
    assert weights[0].keys() == weights[1].keys()
    assert not np.array_equal(*(each["backbone.conv1.0.weight"] for each in weights))
    assert np.array_equal(*(each["backbone.bn1.running_mean"] for each in weights))
    splits = [(run / "splits" / "test.csv").read_text() for run in (trained.run, quantized.run)]
    assert splits[0] == splits[1]
    assert quantized.before.fp32["accuracy"] == trained.metrics["test_accuracy"]
    assert {*quantized.after.int8} == {*quantized.before.fp32}


def test_batch_norm_keeps_its_statistics_when_the_backbone_is_frozen_at_first(
    trained: FitResult, tmp_path: Path, folder: Path, write_config: Callable[..., Path]
) -> None:
    model = {"name": "test_resnet", "weights": str(trained.checkpoint)}
    path = write_config(tmp_path / "config.yaml", folder, model=model, quantization={}, frozen_epochs=1)
    weights = read_weights(trained.checkpoint), read_weights(fit(load_config(path)).run / "last.safetensors")
    assert not np.array_equal(*(each["backbone.conv1.0.weight"] for each in weights))
    assert np.array_equal(*(each["backbone.bn1.running_mean"] for each in weights))


@pytest.mark.drill
def test_every_task_is_quantized_when_its_run_is_given(run: FitResult, tmp_path: Path) -> None:
    result = quantize(run.checkpoint, epochs=1, activations="int8", overrides=[f"output={tmp_path}"])
    assert read_spec(result.checkpoint).outputs == read_spec(run.checkpoint).outputs
    assert None not in {result.after.int8[name] for name, value in result.after.fp32.items() if value is not None}


def test_command_reports_one_error_when_the_checkpoint_cannot_be_trained_further(
    command: Command, trained: FitResult, copy_digits: Callable[..., Path], tmp_path: Path
) -> None:
    alone = Path(shutil.copy(trained.checkpoint, tmp_path / "alone.safetensors"))
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "foreign.safetensors")
    other = copy_digits(tmp_path / "other", labels="23")
    cases = {
        (tmp_path / "missing.safetensors",): "checkpoint.not_found",
        (tmp_path / "foreign.safetensors",): "checkpoint.no_spec",
        (alone,): "data.no_splits",
        (trained.checkpoint, "--data", other): "data.other_labels",
        (trained.checkpoint, "--data", tmp_path / "nothing"): "data.invalid",
        (trained.checkpoint, "optimizer.lr=fast"): "config.invalid",
    }
    for words, code in cases.items():
        result = command("train", "quantize", *words, f"output={tmp_path / 'runs'}", "--json")
        assert (result.exit_code, code in error_codes(result)) == (2, True), (words, result.stdout)
    assert not (tmp_path / "runs").exists()
    assert command("train", "quantize", alone, "--epochs", "0").exit_code == 2
