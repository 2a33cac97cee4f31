"""Time and memory of `builder export` to a proven fp16 ONNX, beside a bare `torch.onnx.export` of the same network.

python -m scripts.export_cost [--model resnet50] [--rounds 3] [--output benchmarks/results/export_cost.json]

Both are whole processes, imports included, started by turns on the same checkpoint: a network of timm with random
calibrated weights. The bare one needs nothing of the kit, exports with `dynamo=True`, the same opset and a dynamic
batch, and proves nothing. Memory is the sum of the peak resident sizes (VmHWM) of a process and all its children.
Exits with 1 when `builder export` takes more than 3 times the time or 2 times the memory.
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

from benchmarks.environment import environment_now
from model.errors import TritonkitError
from model.files import atomic_write
from model.spec import Frozen

MOST_TIME, MOST_MEMORY = 3.0, 2.0
"""Times as much as the bare export."""
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
"""The same network without anything of ours; its last layer is `fc`, as in a ResNet."""


class Cost(Frozen):
    """Of one process and its children, from start to end."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    load_average: float
    """Of the machine, over the minute before it started."""


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command to its end. Raises TritonkitError, with what it said, when it fails."""
    load, began = psutil.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryFile() as said, psutil.Popen(command, stdout=said, stderr=said) as process:
        peak_kib, cpu_seconds = 0, 0.0
        while process.poll() is None:
            peak_kib = max(peak_kib, _peak_kib(process))
            cpu_seconds = max(cpu_seconds, _cpu_seconds(process))
            time.sleep(_SAMPLE_S)
        seconds = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            raise TritonkitError(f"{' '.join(command[:3])} failed:\n{said.read().decode(errors='replace')}")
    return Cost(
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu_seconds, 2),
        peak_mib=round(peak_kib / 1024, 1),
        load_average=round(load, 2),
    )


def _peak_kib(process: psutil.Process) -> int:
    """The kernel keeps the peak of each process, so that rare samples miss none but those of short-lived children."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_high_water_kib(member.pid) for member in family)


def _high_water_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it ended in between
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))  # its own and its children's, in user and system mode
    except psutil.Error:
        return 0.0


def write_checkpoint(model: str, path: Path) -> None:
    """Save a network of timm with random calibrated weights."""
    from model.network import save_network  # the heavy libraries are loaded after the arguments are read
    from scripts.calibrated import network_of

    save_network(path, network_of(model))


def measured(model: str, rounds: int) -> dict[str, list[Cost]]:
    """The costs of both ways, round by round; the order turns over."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint = folder / "network.safetensors"
        write_checkpoint(model, checkpoint)
        builder = str(Path(sys.executable).with_name("builder"))
        repository = ["--repository", str(folder / "repository")]
        ways: dict[str, list[str]] = {
            "builder export": [builder, "export", str(checkpoint), "--onnx", "fp16", *repository],
            "torch.onnx.export": [sys.executable, "-c", BARE, str(checkpoint), str(folder / "bare.onnx"), model],
        }
        costs: dict[str, list[Cost]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in list(ways) if number % 2 else reversed(ways):
                cost = cost_of(ways[way])
                costs[way].append(cost)
                print(
                    f"{way}: {cost.seconds:.1f} s ({cost.cpu_seconds:.1f} s of CPU), {cost.peak_mib:.0f} MiB, "
                    f"load average {cost.load_average:.1f}",
                    flush=True,
                )
        return costs


def summary_of(costs: dict[str, list[Cost]]) -> dict[str, dict[str, float]]:
    """Medians of both ways, and how many times as much `builder export` takes."""
    figures: dict[str, Callable[[Cost], float]] = {
        "seconds": lambda cost: cost.seconds,
        "cpu_seconds": lambda cost: cost.cpu_seconds,
        "peak_mib": lambda cost: cost.peak_mib,
    }
    medians = {
        way: {name: statistics.median(map(read, each)) for name, read in figures.items()} for way, each in costs.items()
    }
    kit, bare = medians["builder export"], medians["torch.onnx.export"]
    return {**medians, "ratio": {name: round(kit[name] / bare[name], 2) for name in figures}}


def main() -> int:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a ResNet of timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    words = parser.parse_args()
    costs = measured(words.model, words.rounds)
    summary = summary_of(costs)
    print(json.dumps(summary, indent=2))
    if words.output:
        now = environment_now(triton="")
        machine = {"cpu": now.cpu, "cores": now.cores, "memory_gib": now.memory_gib, "python": now.python}
        record = {
            "model": words.model,
            "machine": {**machine, **{name: version(name) for name in PACKAGES}},
            "limits": {"seconds": MOST_TIME, "peak_mib": MOST_MEMORY},
            "rounds": {way: [cost.model_dump() for cost in each] for way, each in costs.items()},
            **summary,
        }
        with atomic_write(words.output) as beside:
            beside.write_text(json.dumps(record, indent=2) + "\n")
    ratio = summary["ratio"]
    return 0 if ratio["seconds"] <= MOST_TIME and ratio["peak_mib"] <= MOST_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
