"""Measure what int8 takes from a checkpoint, and how much of it fine-tuning with fake quantization brings back.

Three checkpoints are measured on the validation images of the run, which also select the best epoch: the given one,
one after `train quantize`, and one after the same epochs of the same training without fake quantization, the control.
Each is measured in fp32, and as the first int8 graph that the builder tries for ONNX Runtime, for OpenVINO and for
TensorRT; ONNX Runtime stands in for TensorRT.
Exits with 1 if an int8 graph regains less than half of its loss, or less than the control.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import onnx
import openvino
import typer

from benchmarks.studies.study import Result, command
from builder.onnx.export import onnx_from_network
from builder.onnx.wiring import flattened
from builder.precision.quantize import quantize_graph
from train.quantize import quantize
from tritonkit.checkpoint import read_spec
from tritonkit.evaluation.evaluate import LabelledImages
from tritonkit.golden import Golden
from tritonkit.networks.network import load_network
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, OPENVINO
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.openvino import OpenVinoRunner
from tritonkit.runtimes.pytorch import TorchRunner

FP32, INT8 = "fp32", ("int8 onnxruntime", "int8 openvino", "int8 tensorrt")
BEFORE, QUANTIZED, CONTROL = "checkpoint", "quantized", "control"


def metric_by_runner(checkpoint: Path, golden: Golden, splits: Path, metric: str) -> dict[str, float | None]:
    """Measure a checkpoint in fp32 and its int8 graphs, calibrated on the golden images."""
    spec, network = read_spec(checkpoint), load_network(checkpoint)
    labelled = LabelledImages.read(splits, spec)

    def measured(runner: Runner) -> float | None:
        with runner:
            value = labelled.evaluate(runner).metrics[metric]
        return None if value is None else round(value, 4)

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}{ONNX.suffix}" for name in ("fp32", "onnxruntime", "tensorrt")}
        onnx_from_network(network, paths["fp32"])
        graph = flattened(onnx.load(paths["fp32"]))
        onnx.save(quantize_graph(graph, golden.images, "onnxruntime"), paths["onnxruntime"])
        onnx.save(quantize_graph(graph, golden.images, "tensorrt"), paths["tensorrt"])
        converted = Path(folder) / OPENVINO.file
        openvino.save_model(openvino.Core().read_model(paths["onnxruntime"]), converted, compress_to_fp16=False)
        runners = (
            OnnxRuntimeRunner(paths["onnxruntime"], spec=spec),
            OpenVinoRunner(converted, spec=spec),
            OnnxRuntimeRunner(paths["tensorrt"], spec=spec),
        )
        fp32 = measured(TorchRunner(network, str(checkpoint)))
        return {FP32: fp32, **dict(zip(INT8, map(measured, runners), strict=True))}


def measure(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint with its run folder.")],
    metric: str = "iou",
    epochs: int = 4,
) -> Result:
    """Fine-tune with and without fake quantization, and measure all."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"output={folder}"]
        paths = {
            BEFORE: checkpoint,
            QUANTIZED: quantize(checkpoint, epochs=epochs, overrides=words).checkpoint,
            CONTROL: quantize(checkpoint, epochs=epochs, overrides=[*words, "quantization=null"]).checkpoint,
        }
        splits = paths[QUANTIZED].parent / "splits"
        values = {
            name: metric_by_runner(path, Golden.load(path.with_name("golden.npz")), splits, metric)
            for name, path in paths.items()
        }
    checks: dict[str, bool] = {}
    regained = {name: {kind: _regained(values, name, kind) for kind in INT8} for name in (QUANTIZED, CONTROL)}
    for kind in INT8:
        share, without = regained[QUANTIZED][kind], regained[CONTROL][kind]
        checks[f"{kind}: regains {share:.0%} of its loss, at least half"] = share >= 0.5
        checks[f"{kind}: more than the control, {without:.0%}"] = share > without
    record = {
        "model": read_spec(checkpoint).name,
        "metric": metric,
        "epochs": epochs,
        "values": values,
        "regained": regained,
    }
    return Result(record, checks, packages=("torch", "onnxruntime", "openvino"))


def _regained(values: dict[str, dict[str, float | None]], name: str, kind: str) -> float:
    """The share of the int8 loss of the given checkpoint that another checkpoint brings back."""
    before = values[BEFORE]
    return round((values[name][kind] - before[kind]) / (before[FP32] - before[kind]), 3)  # type: ignore[operator]


if __name__ == "__main__":
    command(measure)()
