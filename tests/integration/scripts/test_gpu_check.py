"""The check for a GPU, tried on the CPU with a tiny network, in a Python without most of tritonkit's packages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.gpu_check import MISSING
from benchmarks.studies.gpu_runtimes import RuntimeResult
from tests.programs import run_python
from tritonkit.repository.verdict import LIMITS

NOT_NEEDED = (
    *("rich", "typer", "lightning", "tritonclient", "jinja2", "matplotlib", "psutil", "docker"),
    *("torchmetrics", "openvino", "requests", "optuna"),
)
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))  # None makes an import fail
runpy.run_module("benchmarks.studies.gpu_check", run_name="__main__")
"""


def _run(hidden_modules: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_python("-c", WITHOUT, ",".join(hidden_modules), *arguments)


def test_check_compares_every_runtime_when_tried_on_the_cpu(tmp_path: Path) -> None:
    report_file = tmp_path / "gpu_check.json"
    completed = _run(NOT_NEEDED, "--cpu", "--output", report_file, "test_resnet")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report: dict[str, Any] = json.loads(report_file.read_text())
    assert report["device"] == "cpu"
    assert {"python", "torch", "timm", "onnxruntime"} <= set(report["versions"])
    results = {(result["runtime"], result["precision"]): result for result in report["results"]}
    assert results["torch", "fp32"]["relative"] == 0
    assert results["onnxruntime", "fp32"]["relative"] < LIMITS["fp32"].relative
    simulation = results["simulation on the CPU", "fp16"]["relative"]
    assert 0 < simulation < LIMITS["fp16"].relative
    assert 0 < results["torch", "fp16"]["against_simulation"] < 2 * simulation
    assert all(results[runtime, "fp16"]["images_per_s"] > 0 for runtime in ("torch", "onnxruntime"))
    assert all(results["tensorrt", precision]["skipped"] for precision in ("fp32", "fp16"))
    assert list(tmp_path.iterdir()) == [report_file]


def test_check_lists_what_is_missing_when_a_needed_package_is_absent(tmp_path: Path) -> None:
    absent = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "onnxscript", "pydantic")
    completed = _run(absent, "--cpu", "--output", tmp_path / "gpu_check.json", "test_resnet")
    assert completed.returncode == MISSING
    assert {"timm (not installed)", "pydantic (not installed)"} <= set(completed.stdout.splitlines()[1][9:].split(", "))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ({"relative": 1e-2, "against_simulation": 1e-2}, True),
        ({"relative": 1e-2, "against_simulation": 0.2}, False),
        ({"problem": "the answers contain NaN or infinity"}, False),
        ({"skipped": "tensorrt is not installed"}, True),
    ],
)
def test_runtime_passes_when_it_ran_within_limits_or_was_not_to_be_tried(fields: dict[str, Any], passed: bool) -> None:
    assert RuntimeResult(network="resnet18", runtime="torch", precision="fp16", **fields).passed is passed
