"""The check for a GPU, tried on the CPU with a tiny network, in a Python that lacks most of what the kit may use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.gpu_check import MISSING
from benchmarks.studies.gpu_report import RuntimeResult
from tritonkit.repository.verdict import LIMITS

ROOT = Path(__file__).parents[2]
NOT_NEEDED = (
    *("rich", "typer", "lightning", "tritonclient", "jinja2", "matplotlib", "psutil", "docker"),
    *("torchmetrics", "openvino", "modelopt", "requests", "optuna"),
)
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))  # None is how Python notes that there is no such module
runpy.run_module("benchmarks.studies.gpu_check", run_name="__main__")
"""


def _run(without: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, ",".join(without), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_check_compares_every_way_when_tried_on_the_cpu(tmp_path: Path) -> None:
    result = tmp_path / "gpu_check.json"
    done = _run(NOT_NEEDED, "--cpu", "--output", result, "test_resnet")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(result.read_text())
    assert report["device"] == "cpu"
    assert {"python", "torch", "timm", "onnxruntime"} <= set(report["versions"])
    ways = {(way["way"], way["precision"]): way for way in report["ways"]}
    assert ways["torch", "fp32"]["relative"] == 0
    assert ways["onnxruntime", "fp32"]["relative"] < LIMITS["fp32"].relative
    simulation = ways["simulation on the CPU", "fp16"]["relative"]
    assert 0 < simulation < LIMITS["fp16"].relative
    assert 0 < ways["torch", "fp16"]["against_simulation"] < 2 * simulation
    assert all(ways[way, "fp16"]["images_per_s"] > 0 for way in ("torch", "onnxruntime"))
    assert all(ways["tensorrt", precision]["skipped"] for precision in ("fp32", "fp16"))
    assert list(tmp_path.iterdir()) == [result]


def test_check_lists_what_is_missing_when_a_needed_package_is_absent(tmp_path: Path) -> None:
    absent = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "onnxscript", "pydantic")
    done = _run(absent, "--cpu", "--output", tmp_path / "gpu_check.json", "test_resnet")
    assert done.returncode == MISSING
    assert {"timm (not installed)", "pydantic (not installed)"} <= set(done.stdout.splitlines()[1][9:].split(", "))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        ({"relative": 1e-2, "against_simulation": 1e-2}, True),
        ({"relative": 1e-2, "against_simulation": 0.2}, False),
        ({"problem": "answers hold NaN or infinity"}, False),
        ({"skipped": "tensorrt is not installed"}, True),
    ],
)
def test_way_passes_when_it_ran_within_limits_or_was_not_to_be_tried(found: dict[str, Any], passed: bool) -> None:
    assert RuntimeResult(network="resnet18", way="torch", precision="fp16", **found).passed is passed
