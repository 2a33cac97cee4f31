"""Measure CPU and wall time of `client infer` through Triton against inference in one process and a plain client loop.

python -m benchmarks.studies.client_cost [--pictures 2000] [--rounds 3] [--model mobilenetv2_100] [--output FILE.json]

Three methods process the same JPEGs of about 500 x 400 pixels, cut from the photographs of `make data`, in turns:
`client infer` with --output through a Triton from the pip wheel; decoding, preprocessing and ONNX Runtime in one
process at its best batch size; and a loop over `tritonclient`, one image in each request, fp32, over HTTP (both
baselines are in benchmarks/studies/client_baselines.py). CPU time is the sum of the client process and Triton with all
its children. The time of `client infer` includes the start of its process; the baselines exclude imports and opening
the model.
Exits with 1 if `client infer` takes more than 1.25 times the CPU time of the single process, or the loop takes less
than 2 times the wall time of `client infer`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from PIL import Image

from benchmarks.environment import read_environment
from scripts.ports import free_ports
from tritonkit.errors import InputError, TritonkitError
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

MAX_CPU_RATIO, MIN_WALL_RATIO = 1.25, 2.0
CLIENT_INFER, IN_PROCESS, PLAIN = "client infer", "in process", "plain loop"
SERVED, SERVED_PLAIN = "network", "plain"
PACKAGES = ("numpy", "onnxruntime", "pillow", "tritonclient")
_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".cache"


class ClientCost(Frozen):
    """Time of one run over all images, in seconds."""

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    load_average: float
    """Load average of the machine over the minute before the run."""
    best: str = ""
    """Batch size and thread count with the least CPU time; in-process method only."""

    @property
    def cpu_s(self) -> float:
        """CPU time of client and server."""
        return self.client_cpu_s + self.server_cpu_s


class TritonAddresses(NamedTuple):
    """Addresses and process of a running Triton."""

    grpc: str
    http: str
    process: psutil.Process


@dataclass(frozen=True)
class ClientComparison:
    """The setup that all three methods share."""

    pictures: Path
    count: int
    artifact: Path
    triton: TritonAddresses
    folder: Path
    options: Sequence[str] = ()
    """Additional arguments of `client infer`."""

    def run_method(self, method: str) -> ClientCost:
        """Run one method and return its cost. Raises TritonkitError with its output if it fails."""
        load, server_start_s = psutil.getloadavg()[0], _family_cpu_s(self.triton.process)
        started = time.perf_counter()
        output, cpu_s = _run(self._command(method))
        wall_s = time.perf_counter() - started
        server_s = _family_cpu_s(self.triton.process) - server_start_s
        reported = {} if method == CLIENT_INFER else json.loads(output)
        return ClientCost(
            wall_s=round(reported.get("wall_s", wall_s), 3),
            client_cpu_s=round(reported.get("cpu_s", cpu_s), 3),
            server_cpu_s=0.0 if method == IN_PROCESS else round(server_s, 3),
            load_average=round(load, 2),
            best=reported.get("best", ""),
        )

    def _command(self, method: str) -> list[str]:
        if method == CLIENT_INFER:
            output = self.folder / "answers.jsonl"
            output.unlink(missing_ok=True)
            arguments = [
                "infer",
                self.pictures,
                "--model",
                SERVED,
                "--url",
                self.triton.grpc,
                "--output",
                output,
                *self.options,
            ]
            return [str(Path(sys.executable).with_name("client")), *map(str, arguments)]
        arguments = ["in-process", self.artifact] if method == IN_PROCESS else ["plain", self.triton.http, SERVED_PLAIN]
        return [
            sys.executable,
            "-m",
            "benchmarks.studies.client_baselines",
            *map(str, [*arguments, self.pictures, self.count]),
        ]


def _run(command: Sequence[str]) -> tuple[str, float]:
    """Run a command; return its stdout, and the CPU seconds of the process and of children that it waited for."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=_ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            raise TritonkitError(
                f"{' '.join(command[:3])} failed:\n{stderr.read().decode(errors='replace')}",
                code="drill.command_failed",
            )
        return stdout.read().decode(), usage.ru_utime + usage.ru_stime


def _family_cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its children so far."""
    return float(sum(sum(member.cpu_times()[:2]) for member in [process, *process.children(recursive=True)]))


def write_pictures(folder: Path, count: int, photos: Path) -> Path:
    """Write JPEGs of about 500 x 400 pixels, each a random crop of a photograph; reuse them if they exist."""
    picture_folder = folder / f"pictures-{count}"
    if picture_folder.is_dir():
        return picture_folder
    photographs = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))]
    if not photographs:
        raise InputError(f"{photos}: contains no photographs; `make data` fetches them", code="data.no_photos")
    rng = random.Random(0)  # noqa: S311 - no secret
    partial = picture_folder.with_name(f".{picture_folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    for number in range(count):
        photo = rng.choice(photographs)
        share = rng.uniform(0.7, 1.0)
        height = min(photo.height, photo.width * 0.8) * share
        left, top = rng.uniform(0, photo.width - height * 1.25), rng.uniform(0, photo.height - height)
        size = rng.randint(470, 530), rng.randint(380, 420)
        crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + height * 1.25, top + height))
        picture = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else crop
        picture.save(partial / f"{number:05}.jpg", quality=90)
    partial.rename(picture_folder)
    return picture_folder


def write_repository(folder: Path, architecture: str, max_batch: int) -> Path:
    """Publish the network with tritonkit, and also write it as a plain graph that takes normalised fp32 images."""
    import torch

    from benchmarks.studies.calibration import calibrated_network
    from builder.export import export
    from builder.request import ExportRequest
    from builder.sources import source_from_checkpoint
    from tritonkit.networks.network import save_network

    repository = folder / "repository"
    network = calibrated_network(architecture)
    save_network(folder / "network.safetensors", network)
    source = source_from_checkpoint(folder / "network.safetensors", name=SERVED)
    export(ExportRequest(source=source, repository=repository, max_batch=max_batch))
    version_folder = repository / SERVED_PLAIN / "1"
    version_folder.mkdir(parents=True)
    plain_network = torch.nn.Sequential(network.backbone, torch.nn.Softmax(dim=1)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        plain_network,
        (torch.zeros(2, 3, 224, 224),),
        version_folder / ONNX.file,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=shapes,
        input_names=["input"],
        output_names=["probabilities"],
        verbose=False,
    )
    (repository / SERVED_PLAIN / "config.pbtxt").write_text(_plain_config(max_batch, len(network.spec.labels)))
    return repository


def _plain_config(max_batch: int, classes: int) -> str:
    return (
        f'name: "{SERVED_PLAIN}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch}\n'
        'input { name: "input" data_type: TYPE_FP32 dims: [3, 224, 224] }\n'
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}] }}\n'
        "dynamic_batching { }\n"
    )


@contextmanager
def serve(repository: Path, models: Sequence[str]) -> Iterator[TritonAddresses]:
    """Start a Triton on free ports with some models of a repository."""
    from server.process import Options, start, stop, wait_until_ready

    http, grpc, metrics = free_ports()
    options = Options(repository=repository, models=tuple(models), http_port=http, grpc_port=grpc, metrics_port=metrics)
    server = start(options, stops_with_parent=True)
    try:
        wait_until_ready(server, 120)
        yield TritonAddresses(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}", psutil.Process(server.pid))
    finally:
        stop(server)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[ClientCost]]:
    """Return the costs of each method for each round; the order alternates."""
    pictures = write_pictures(_CACHE / "client_cost", arguments.pictures, _CACHE / "data" / "photos")
    repository = arguments.repository or write_repository(folder, arguments.model, arguments.max_batch)
    artifact = repository / SERVED / "1" / ONNX.file
    costs: dict[str, list[ClientCost]] = {method: [] for method in (IN_PROCESS, CLIENT_INFER, PLAIN)}
    with serve(repository, [SERVED, SERVED_PLAIN]) as triton:
        comparison = ClientComparison(pictures, arguments.pictures, artifact, triton, folder, arguments.option)
        for number in range(arguments.rounds):
            for method in list(costs) if number % 2 == 0 else reversed(costs):
                cost = comparison.run_method(method)
                costs[method].append(cost)
                print(f"{method}: {_describe(cost, arguments.pictures)}", flush=True)
    return costs


def _describe(cost: ClientCost, count: int) -> str:
    ms_per_picture = 1e3 / count
    best = f", {cost.best}" if cost.best else ""
    return (
        f"for each picture {cost.wall_s * ms_per_picture:.2f} ms of wall time, {cost.cpu_s * ms_per_picture:.2f} ms of "
        f"CPU (client {cost.client_cpu_s * ms_per_picture:.2f}, server {cost.server_cpu_s * ms_per_picture:.2f}), "
        f"load average {cost.load_average:.1f}{best}"
    )


def summarize(costs: dict[str, list[ClientCost]]) -> dict[str, Any]:
    """Return the medians of the rounds in seconds, and both ratios."""
    wall = {method: statistics.median(cost.wall_s for cost in method_costs) for method, method_costs in costs.items()}
    cpu = {method: statistics.median(cost.cpu_s for cost in method_costs) for method, method_costs in costs.items()}
    ratio = {
        "cpu, client infer to in process": round(cpu[CLIENT_INFER] / cpu[IN_PROCESS], 3),
        "wall, plain loop to client infer": round(wall[PLAIN] / wall[CLIENT_INFER], 3),
    }
    return {"wall_s": wall, "cpu_s": cpu, "ratio": ratio}


def main() -> int:
    """Run the measurement, then print and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_100", help="a timm architecture at 224 x 224")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--repository", type=Path, help="an existing repository with both models")
    parser.add_argument("--option", action="append", default=[], help="more arguments for `client infer`; repeatable")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TRITONKIT_STATE", str(Path(folder) / "state"))
        costs = measure(arguments, Path(folder))
    summary = summarize(costs)
    print(json.dumps(summary, indent=2))
    if arguments.output:
        environment = read_environment(triton="2.51.0")
        machine = {
            "cpu": environment.cpu,
            "cores": environment.cores,
            "memory_gib": environment.memory_gib,
            "python": environment.python,
        }
        record = {
            "model": arguments.model,
            "pictures": arguments.pictures,
            "machine": {**machine, **{name: version(name) for name in PACKAGES}},
            "limits": {"cpu": MAX_CPU_RATIO, "wall": MIN_WALL_RATIO},
            "rounds": {method: [cost.model_dump() for cost in method_costs] for method, method_costs in costs.items()},
            **summary,
        }
        with atomic_write(arguments.output) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")
    cpu, wall = summary["ratio"].values()
    return 0 if cpu <= MAX_CPU_RATIO and wall >= MIN_WALL_RATIO else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
