"""Measure served images per second of a network as OpenVINO bf16 on a CPU, against OpenVINO fp32 and ONNX Runtime fp32.

python -m benchmarks.studies.openvino_rate [--model resnet18] [--rounds 5] [--concurrency 16] [--output FILE.json]

One Triton from the pip wheel serves all three, with the same instances and dynamic batching. They are measured in
turns with a fixed number of single images in flight, as `bench run` does. The gain of bf16 depends on the CPU: it is
large with `amx_bf16`, which multiplies whole tiles, and smaller with `avx512_bf16` only; the record names which of
these the CPU has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution
from pathlib import Path

import timm
import torch

from benchmarks.environment import read_environment
from benchmarks.load import Timing, batches_of, measure_level
from builder.config.triton_config import config_for, config_to_text
from builder.formats import BuildJob, builder_for
from builder.onnx.export import onnx_interface
from builder.sources import source_from_state_dict
from builder.sources.images import builtin_golden
from scripts.ports import free_ports
from server.process import Options, start, stop, wait_until_ready
from server.runtimes.pip_environment import find_pip_environment
from tritonkit.export_options import ForeignModelOptions
from tritonkit.runtimes.formats import ONNX, Target
from tritonkit.triton.client import TritonClient
from tritonkit.triton.model_config import CONFIG_FILE
from tritonkit.triton.runner import TritonRunner

VARIANTS = {
    "openvino bf16": Target(format="openvino", precision="bf16"),
    "openvino fp32": Target(format="openvino"),
    "onnxruntime fp32": Target(),
}
MAX_BATCH = 32
CAPABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def write_repository(folder: Path, architecture: str, instances: int) -> Path:
    """Write the network with random weights in all three formats; speed does not depend on the weights."""
    torch.manual_seed(0)
    torch.save(timm.create_model(architecture).state_dict(), folder / "weights.pth")
    (folder / "labels.txt").write_text("".join(f"label {i}\n" for i in range(1000)))
    source = source_from_state_dict(
        folder / "weights.pth", ForeignModelOptions(model=architecture, labels=folder / "labels.txt")
    )
    source.write_graph(folder / ONNX.file)
    for variant, target in VARIANTS.items():
        model = folder / "repository" / variant.replace(" ", "_")
        (model / "1").mkdir(parents=True)
        job = BuildJob(source, folder / ONNX.file, target.precision, model / "1", MAX_BATCH, None, print)
        artifact_builder = builder_for(target.format)
        artifact_builder.write(job)
        config = config_for(source.spec.renamed(model.name), onnx_interface(job.graph), MAX_BATCH, 1)
        config.backend = target.record.backend
        group = config.instance_group.add(count=instances)
        group.kind = group.KIND_CPU
        for key, value in artifact_builder.parameters(job).items():
            config.parameters[key].string_value = value
        for name, text in {CONFIG_FILE: config_to_text(config), **source.spec.label_files}.items():
            (model / name).write_text(text)
    return folder / "repository"


@contextmanager
def serve(repository: Path) -> Iterator[TritonClient]:
    """Start a Triton on free ports."""
    http, grpc, metrics = free_ports()
    options = Options(repository=repository, http_port=http, grpc_port=grpc, metrics_port=metrics)
    server = start(options, stops_with_parent=True)
    try:
        wait_until_ready(server, 120)
        yield TritonClient(f"127.0.0.1:{grpc}")
    finally:
        stop(server)


def measure(
    server: TritonClient, arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[bool]]]:
    """Return images per second of each variant and round, and whether each was stable; the order alternates."""
    runners = {variant: TritonRunner(server, variant.replace(" ", "_")) for variant in VARIANTS}
    batches = batches_of(builtin_golden(runners["openvino bf16"].spec.preprocess).images, 1)
    timing = Timing(arguments.window_s, arguments.max_windows, warm_up_s=min(2.0, arguments.window_s))
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    stable: dict[str, list[bool]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds):
        for variant in list(VARIANTS) if number % 2 else reversed(VARIANTS):
            level = measure_level(runners[variant], batches, arguments.concurrency, timing)
            if level.errors:
                raise SystemExit(f"{variant}: {level.errors} requests failed: {level.first_error}")
            rates[variant].append(round(level.figures.requests_per_s, 1))
            stable[variant].append(level.stable)
            print(f"{variant}: {rates[variant][-1]:.1f} images/s{'' if level.stable else ' (not stable)'}", flush=True)
    return rates, stable


def machine(triton: str) -> dict[str, object]:
    """Describe the CPU, its instruction sets that matter here, and the serving libraries."""
    environment = read_environment(triton=triton)
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    site = find_pip_environment().interpreter.site
    distributions = [
        next(iter(Distribution.discover(name=library, path=[site])), None) for library in ("openvino", "onnxruntime")
    ]
    return {
        "cpu": environment.cpu,
        "cores": environment.cores,
        "cpu_has": {name: name in flags.split() for name in CAPABILITIES},
        "triton": triton,
        **{
            distribution.metadata["Name"]: distribution.version
            for distribution in distributions
            if distribution is not None
        },
    }


def main() -> int:
    """Run the measurement, then print and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a timm architecture")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--instances", type=int, default=2, help="of each model; they share the cores")
    parser.add_argument("--window-s", type=float, default=5.0)
    parser.add_argument("--max-windows", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(write_repository(Path(folder), arguments.model, arguments.instances)) as server,
    ):
        rates, stable = measure(server, arguments)
        environment = machine(server.release())
    medians = {variant: statistics.median(values) for variant, values in rates.items()}
    ratios = {
        f"openvino bf16 to {variant}": round(medians["openvino bf16"] / medians[variant], 3)
        for variant in list(VARIANTS)[1:]
    }
    options = {key: value for key, value in vars(arguments).items() if key != "output"}
    record = {
        **options,
        "machine": environment,
        "images_per_s": rates,
        "stable": stable,
        "median": medians,
        "ratio": ratios,
    }
    print(json.dumps({"median": medians, "ratio": ratios, "machine": environment}, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
