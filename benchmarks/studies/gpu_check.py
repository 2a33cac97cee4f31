"""Measure error and rate of ten network families on a GPU in each installed runtime, against torch in fp32 on the CPU.

scripts/gpu_check.sh [--output FILE.json] [--cpu] [NAME...]

Errors are relative to torch in fp32 on the CPU. `simulation` is the graph that simulates the rounding of fp16 hardware
in a verdict; fp16 results of the hardware are also compared with it. Rates are medians, in images per second, of one
batch at a time, including the copies from and to host memory. The JSON file is rewritten after each network. Exits with
0 if all installed runtimes kept their limits, 1 if one did not, 2 if a package is missing, 3 if there is no GPU.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.package_versions import installed_versions

if TYPE_CHECKING:
    from benchmarks.studies.gpu_report import GpuReport

FAMILIES = (
    *("resnet18", "resnet50", "mobilenetv3_small_100", "efficientnet_b0", "densenet121"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "regnety_004", "eva02_tiny_patch14_224"),
)
REQUIRED = (
    *("torch", "torchvision", "timm", "segmentation-models-pytorch", "onnx", "onnxscript", "onnxruntime"),
    *("numpy", "pydantic", "safetensors", "pillow"),
)
OPTIONAL = ("tensorrt", "tensorrt-rtx")
MISSING, NO_GPU = 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the networks and return the exit code."""
    options = _parser().parse_args(arguments)
    versions, missing = installed_versions([*REQUIRED, *OPTIONAL])
    print("found: " + ", ".join(f"{tool} {version}" for tool, version in versions.items()))
    print("missing: " + (", ".join(f"{tool} ({reason})" for tool, reason in missing.items()) or "nothing"))
    if set(missing) & set(REQUIRED):
        print(f"nothing was checked: required are {', '.join(REQUIRED)}", file=sys.stderr)
        return MISSING
    from benchmarks.studies.gpu_report import HEAD  # imports packages that were checked above
    from benchmarks.studies.gpu_runtimes import RunSettings, check

    settings = RunSettings("cpu", batch=4, runs=1) if options.cpu else RunSettings("cuda", batch=32, runs=20)
    report = _new_report(settings.device, versions, missing, settings.batch, settings.runs)
    if report.gpu is None and not options.cpu:
        print(
            "this machine has no NVIDIA GPU, so nothing was checked; --cpu tests the script on the CPU", file=sys.stderr
        )
        return NO_GPU
    print(HEAD)
    for name in options.names:
        results = tuple(check(name, settings))
        print("\n".join(result.row() for result in results), flush=True)
        report = report.model_copy(update={"results": (*report.results, *results)})
        _write(report, options.output)
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_check.json"))
    parser.add_argument("--cpu", action="store_true", help="test the script on the CPU, with few runs")
    return parser


def _new_report(device: str, versions: dict[str, str], missing: dict[str, str], batch: int, runs: int) -> GpuReport:
    import torch

    from benchmarks.studies.gpu_report import GpuReport
    from tritonkit.system.gpu import find_gpu

    gpu = find_gpu()
    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    return GpuReport(
        device=device,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        driver=_driver(),
        versions={"python": platform.python_version(), **versions, **cuda},
        missing=missing,
        batch=batch,
        runs=runs,
    )


def _driver() -> str | None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 and result.stdout.strip() else None


def _write(report: GpuReport, path: Path) -> None:
    from tritonkit.system.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
