"""Measure time and memory of `builder export` to a verified fp16 ONNX file against a bare `torch.onnx.export`.

Both are whole processes, including imports, that run in turns on the same checkpoint: a timm network with random
calibrated weights. The baseline does not use tritonkit, exports with `dynamo=True`, the same opset and a dynamic batch,
and verifies nothing. Memory is the sum of the peak resident sizes (VmHWM) of a process and all its children. Exits with
1 if `builder export` takes more than 3 times the time or 2 times the memory.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.study import ProcessCost, Result, command, in_turns, medians, run_process
from tritonkit.networks.network import save_network
from tritonkit.runtimes.formats import ONNX

BUILDER, BARE = "builder export", "torch.onnx.export"
LIMITS = {"seconds": 3.0, "peak_mib": 2.0}
"""As multiples of the bare export."""
BARE_PROGRAM = """
import sys
import timm
import torch
from safetensors.torch import load_file
class Whole(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.backbone = timm.create_model(sys.argv[3], num_classes=len(weights["backbone.fc.bias"]))
        self.load_state_dict(weights)
    def forward(self, image):
        pixels = image.float().permute(0, 3, 1, 2)
        return self.backbone((pixels - 120) / 60).softmax(dim=1)
network = Whole(load_file(sys.argv[1])).eval()
images = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
shapes = {"image": {0: torch.export.Dim("batch")}}
torch.onnx.export(network, (images,), sys.argv[2], dynamo=True, opset_version=20, dynamic_shapes=shapes, verbose=False)
"""
"""The same network without tritonkit; its last layer is `fc`, as in a ResNet."""


def measure(model: Annotated[str, typer.Option(help="A ResNet of timm.")] = "resnet50", rounds: int = 3) -> Result:
    """Export with both, and compare the medians."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = folder / "network.safetensors"
        save_network(checkpoint, calibrated_network(model))
        builder, repository = Path(sys.executable).with_name("builder"), folder / "repository"
        commands: dict[str, list[object]] = {
            BUILDER: [builder, "export", checkpoint, "--onnx", "fp16", "--repository", repository],
            BARE: [sys.executable, "-c", BARE_PROGRAM, checkpoint, folder / ONNX.file, model],
        }
        outcomes = in_turns({name: partial(run_process, words, 0.02) for name, words in commands.items()}, rounds)
        costs = {name: [cost for cost, _ in rows] for name, rows in outcomes.items()}
    summary = summarize(costs)
    ratio = summary["ratio"]
    return Result(
        {
            "model": model,
            "limits": LIMITS,
            "rounds": {name: [vars(cost) for cost in rows] for name, rows in costs.items()},
            **summary,
        },
        {
            f"{name}: {ratio[name]} of the bare export, at most {limit}": ratio[name] <= limit
            for name, limit in LIMITS.items()
        },
        hidden=("rounds",),
        packages=("torch", "timm", "onnx", "onnxscript", "onnxruntime"),
    )


def summarize(costs: dict[str, list[ProcessCost]]) -> dict[str, dict[str, float]]:
    """Return the medians of both commands, and the ratio of `builder export` to the baseline."""
    figures = {
        name: medians({command: [vars(cost)[name] for cost in rows] for command, rows in costs.items()})
        for name in ("seconds", "cpu_seconds", "peak_mib")
    }
    by_command = {command: {name: figures[name][command] for name in figures} for command in costs}
    return {**by_command, "ratio": {name: round(both[BUILDER] / both[BARE], 2) for name, both in figures.items()}}


if __name__ == "__main__":
    command(measure)()
