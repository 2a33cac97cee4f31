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
import sys
from pathlib import Path

from scripts.package_versions import installed_versions

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


def main() -> int:
    """Check the networks and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_check.json"))
    parser.add_argument("--cpu", action="store_true", help="test the script on the CPU, with few runs")
    options = parser.parse_args()
    versions, missing = installed_versions([*REQUIRED, *OPTIONAL])
    print("found: " + ", ".join(f"{tool} {version}" for tool, version in versions.items()))
    print("missing: " + (", ".join(f"{tool} ({reason})" for tool, reason in missing.items()) or "nothing"))
    if set(missing) & set(REQUIRED):
        print(f"nothing was checked: required are {', '.join(REQUIRED)}", file=sys.stderr)
        return MISSING
    import torch  # what follows needs the packages that were found

    from benchmarks.studies.gpu_runtimes import HEAD, RunSettings, RuntimeResult, check
    from benchmarks.studies.study import write_json
    from tritonkit.system.gpu import find_gpu, query_gpus

    settings = RunSettings("cpu", batch=4, runs=1) if options.cpu else RunSettings("cuda", batch=32, runs=20)
    gpu = find_gpu()
    if gpu is None and not options.cpu:
        print("this machine has no NVIDIA GPU, so nothing was checked; --cpu tests the script", file=sys.stderr)
        return NO_GPU
    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    report = {
        **vars(settings),
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.compute_capability if gpu else None,
        "driver": next(iter(query_gpus("driver_version")), None),
        "versions": {"python": platform.python_version(), **versions, **cuda},
        "missing": missing,
    }
    print(HEAD)
    results: list[RuntimeResult] = []
    for name in options.names:
        for result in check(name, settings):
            results.append(result)
            print(result.row(), flush=True)
        write_json(options.output, {**report, "results": [result.model_dump(mode="json") for result in results]})
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
