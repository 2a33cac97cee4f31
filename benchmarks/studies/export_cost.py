"""Measure time and memory of `builder export` to a verified fp16 ONNX file against a bare `torch.onnx.export`.

python -m benchmarks.studies.export_cost [--model resnet50] [--rounds 3] [--output benchmarks/results/export_cost.json]

Both are whole processes, including imports, that run in turns on the same checkpoint: a timm network with random
calibrated weights. The baseline does not use tritonkit, exports with `dynamo=True`, the same opset and a dynamic batch,
and verifies nothing. Memory is the sum of the peak resident sizes (VmHWM) of a process and all its children. Exits with
1 if `builder export` takes more than 3 times the time or 2 times the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.environment import read_environment
from tritonkit.errors import TritonkitError
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

MAX_TIME_RATIO, MAX_MEMORY_RATIO = 3.0, 2.0
"""Limits as multiples of the bare export."""
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
_SAMPLE_S = 0.02
BARE = """
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


class ProcessCost(Frozen):
    """Time and memory of one process and its children, from start to end."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    load_average: float
    """Load average of the machine over the minute before the start."""


def measure_command(command: Sequence[str]) -> ProcessCost:
    """Run a command and return its cost. Raises TritonkitError with its output if it fails."""
    load, started = psutil.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryFile() as output, psutil.Popen(command, stdout=output, stderr=output) as process:
        peak_kib, cpu_seconds = 0, 0.0
        while process.poll() is None:
            peak_kib = max(peak_kib, _peak_kib(process))
            cpu_seconds = max(cpu_seconds, _cpu_seconds(process))
            time.sleep(_SAMPLE_S)
        seconds = time.monotonic() - started
        if process.returncode:
            output.seek(0)
            raise TritonkitError(
                f"{' '.join(command[:3])} failed:\n{output.read().decode(errors='replace')}",
                code="drill.command_failed",
            )
    return ProcessCost(
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu_seconds, 2),
        peak_mib=round(peak_kib / 1024, 1),
        load_average=round(load, 2),
    )


def _peak_kib(process: psutil.Process) -> int:
    """Return the sum of the peak memory of a process and its children.

    The kernel keeps the peak of each process, so samples miss only children that live shortly.
    """
    try:
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_high_water_kib(member.pid) for member in processes)


def _high_water_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # the process ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))  # its own and its children's, in user and system mode
    except psutil.Error:
        return 0.0


def write_checkpoint(model: str, path: Path) -> None:
    """Save a network of timm with random calibrated weights."""
    from benchmarks.studies.calibration import calibrated_network
    from tritonkit.networks.network import save_network  # imported late, so that --help is fast

    save_network(path, calibrated_network(model))


def measure(model: str, rounds: int) -> dict[str, list[ProcessCost]]:
    """Return the costs of both commands for each round; the order alternates."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = folder / "network.safetensors"
        write_checkpoint(model, checkpoint)
        builder = str(Path(sys.executable).with_name("builder"))
        repository = ["--repository", str(folder / "repository")]
        commands: dict[str, list[str]] = {
            "builder export": [builder, "export", str(checkpoint), "--onnx", "fp16", *repository],
            "torch.onnx.export": [sys.executable, "-c", BARE, str(checkpoint), str(folder / ONNX.file), model],
        }
        costs: dict[str, list[ProcessCost]] = {name: [] for name in commands}
        for number in range(rounds):
            for name in list(commands) if number % 2 else reversed(commands):
                cost = measure_command(commands[name])
                costs[name].append(cost)
                print(
                    f"{name}: {cost.seconds:.1f} s ({cost.cpu_seconds:.1f} s of CPU), {cost.peak_mib:.0f} MiB, "
                    f"load average {cost.load_average:.1f}",
                    flush=True,
                )
        return costs


def summarize(costs: dict[str, list[ProcessCost]]) -> dict[str, dict[str, float]]:
    """Return the medians of both commands, and the ratio of `builder export` to the baseline."""
    figures: dict[str, Callable[[ProcessCost], float]] = {
        "seconds": lambda cost: cost.seconds,
        "cpu_seconds": lambda cost: cost.cpu_seconds,
        "peak_mib": lambda cost: cost.peak_mib,
    }
    medians = {
        command: {name: statistics.median(map(read, command_costs)) for name, read in figures.items()}
        for command, command_costs in costs.items()
    }
    builder_medians, bare_medians = medians["builder export"], medians["torch.onnx.export"]
    return {**medians, "ratio": {name: round(builder_medians[name] / bare_medians[name], 2) for name in figures}}


def main() -> int:
    """Run the measurement, then print and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a ResNet of timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    costs = measure(arguments.model, arguments.rounds)
    summary = summarize(costs)
    print(json.dumps(summary, indent=2))
    if arguments.output:
        environment = read_environment(triton="")
        machine = {
            "cpu": environment.cpu,
            "cores": environment.cores,
            "memory_gib": environment.memory_gib,
            "python": environment.python,
        }
        record = {
            "model": arguments.model,
            "machine": {**machine, **{name: version(name) for name in PACKAGES}},
            "limits": {"seconds": MAX_TIME_RATIO, "peak_mib": MAX_MEMORY_RATIO},
            "rounds": {name: [cost.model_dump() for cost in command_costs] for name, command_costs in costs.items()},
            **summary,
        }
        with atomic_write(arguments.output) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")
    ratio = summary["ratio"]
    return 0 if ratio["seconds"] <= MAX_TIME_RATIO and ratio["peak_mib"] <= MAX_MEMORY_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
