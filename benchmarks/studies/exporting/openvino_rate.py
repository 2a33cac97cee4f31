"""Measure served images per second of a network as OpenVINO bf16 on a CPU, against OpenVINO fp32 and ONNX Runtime fp32.

Weights are random and calibrated on photographs. One Triton from the pip wheel serves all three, with the same
instances and dynamic batching. They are measured in turns with a fixed number of single images in flight, as `bench
run` does. The gain of bf16 depends on the CPU: it is large with `amx_bf16`, which multiplies whole tiles, and smaller
with `avx512_bf16` only; the record names which of these the CPU has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import Distribution
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.inputs import batches_of
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.generator import ThreadGenerator
from benchmarks.load.level import Timing, measure_level
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import publish_network, serve
from benchmarks.studies.study import Result, command, in_turns, medians
from builder.sources.images import builtin_golden
from server.runtimes.pip_environment import find_pip_environment
from tritonkit.errors import TritonkitError
from tritonkit.images.preprocess import ImageArray
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

VARIANTS = {
    "openvino bf16": {"openvino": "bf16"},
    "openvino fp32": {"openvino": "fp32"},
    "onnxruntime fp32": {"onnx": "fp32"},
}
"""Export targets by name."""
MAX_BATCH = 32
CAPABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def measure(
    model: Annotated[str, typer.Option(help="A timm architecture.")] = "resnet18",
    rounds: int = 5,
    concurrency: int = 16,
    instances: Annotated[int, typer.Option(help="Of each model; they share the cores.")] = 2,
    window_s: float = 5.0,
    max_windows: int = 10,
) -> Result:
    """Measure the three variants, and compare the medians."""
    timing = Timing(window_s, max_windows, warm_up_s=min(2.0, window_s))
    network = calibrated_network(model)
    batches = batches_of(builtin_golden(network.spec.preprocess).images, 1)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        options = {"instances": instances, "kind": "cpu", "encoded": False, "force": True, "repair": False}
        for variant, target in VARIANTS.items():
            publish_network(network, repository, variant.replace(" ", "_"), MAX_BATCH, **target, **options)
        with serve(repository) as triton, TritonClient(triton.options.grpc_url) as server:
            runners = {variant: TritonRunner(server, variant.replace(" ", "_")) for variant in VARIANTS}
            methods = {name: partial(rate, runner, batches, concurrency, timing) for name, runner in runners.items()}
            rates = in_turns(methods, rounds)
            release = server.release()
    images_per_s = {variant: [number for number, _ in values] for variant, values in rates.items()}
    median = medians(images_per_s)
    bf16, *others = VARIANTS
    return Result(
        {
            "model": model,
            "rounds": rounds,
            "concurrency": concurrency,
            "instances": instances,
            "window_s": window_s,
            "max_windows": max_windows,
            "machine": serving_machine(release),
            "images_per_s": images_per_s,
            "stable": {variant: [stable for _, stable in values] for variant, values in rates.items()},
            "median": median,
            "ratio": {f"{bf16} to {other}": round(median[bf16] / median[other], 3) for other in others},
        }
    )


def rate(runner: TritonRunner, batches: Sequence[ImageArray], concurrency: int, timing: Timing) -> tuple[float, bool]:
    """Return images per second, and whether the windows were stable. Raises TritonkitError if a request failed."""
    level = measure_level(ThreadGenerator(runner, batches), ClosedLoop(concurrency), timing)
    if level.errors:
        raise TritonkitError(f"{level.errors} requests failed: {level.first_error}", code="drill.requests_failed")
    return round(level.requests_per_s, 1), level.stable


def serving_machine(triton: str) -> dict[str, object]:
    """Return the CPU's instruction sets that matter here, and the versions of the serving libraries."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    site = find_pip_environment().interpreter.site
    found = [next(iter(Distribution.discover(name=name, path=[site])), None) for name in ("openvino", "onnxruntime")]
    return {
        "cpu_has": {name: name in flags.split() for name in CAPABILITIES},
        "triton": triton,
        **{library.metadata["Name"]: library.version for library in found if library is not None},
    }


if __name__ == "__main__":
    command(measure)()
