"""Options without an effect, and options that contradict each other, are refused in one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.request import ExportRequest
from tests.errors import raises
from tests.fixture_types import Command
from tritonkit.errors import InputError
from tritonkit.options import options_from

SET = {"opt_batch": 4, "keep_fp32": ["x"], "calibration": Path("photos"), "masks": Path("masks")}


def codes_of(**options: Any) -> dict[str, str]:
    """The code of each problem of the options, by flag."""
    with pytest.raises(InputError) as caught:
        options_from(ExportRequest, {"source": "pets.safetensors", **options})
    return {problem.message.split()[0].rstrip(":"): problem.code for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"onnx": "fp32"}, {"--opt-batch", "--keep-fp32", "--calibration"}),
        ({"onnx": "int8"}, {"--opt-batch"}),
        ({"openvino": "bf16"}, {"--opt-batch", "--keep-fp32", "--calibration"}),
        ({"openvino": "int8"}, {"--opt-batch"}),
        ({"torchscript": True}, {"--opt-batch", "--keep-fp32", "--calibration"}),
        ({"trt": "fp32"}, {"--keep-fp32", "--calibration"}),
        ({"rtx": "fp16"}, set()),
    ],
)
def test_options_are_reported_when_the_target_does_not_use_them(options: dict[str, object], unused: set[str]) -> None:
    assert codes_of(**options, **SET) == dict.fromkeys({*unused, "--masks"}, "option.no_effect")
    assert options_from(ExportRequest, {"source": "x", **options})


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"onnx": "fp15"}, {"--onnx": "option.precision"}),
        ({"onnx": "fp16", "trt": "fp16"}, {"--trt": "option.two_formats"}),
        ({"trt": "fp16", "kind": "cpu"}, {"--kind": "config.instance_kind"}),
        ({"torchscript": True, "accelerator": ["cuda"]}, {"--accelerator": "config.accelerator_backend"}),
        (
            {"in_container": True, "image": "triton", "workspace_mib": 64},
            {
                "--in-container": "option.in_container_unused",
                "--image": "option.image_unused",
                "--workspace-mib": "option.plan_unused",
            },
        ),
        ({"trt": "fp16", "dry_run": True}, {"--dry-run": "option.dry_run_unused"}),
        (
            {"trt": "fp16", "hardware": "any", "time_limit_s": 0.0, "optimization_level": 6, "max_batch": 5000},
            {
                "--hardware": "option.hardware",
                "--time-limit-s": "option.time_limit",
                "--optimization-level": "build.optimization_level",
                "--max-batch": "option.too_large",
            },
        ),
        ({"report": Path("page.txt")}, {"--report": "output.not_html"}),
    ],
)
def test_options_that_contradict_each_other_are_refused_all_at_once(
    options: dict[str, object], codes: dict[str, str]
) -> None:
    assert codes_of(**options) == codes


def test_bf16_for_onnxruntime_needs_tensorrt() -> None:
    with raises(InputError, "onnx.bf16_kernels"):
        options_from(ExportRequest, {"source": "x", "onnx": "bf16", "accelerator": ["cuda"]})
    options = {"source": "x", "onnx": "bf16", "accelerator": ["tensorrt:precision_mode=FP16"]}
    assert options_from(ExportRequest, options).uses_tensorrt


def test_strict_and_force_contradict_each_other(command: Command, checkpoint: Path) -> None:
    result = command("builder", "export", checkpoint, "--onnx", "fp16", "--strict", "--force", "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["error"]["problems"]
    assert problem["code"] == "option.no_effect"
    assert "--strict" in problem["message"]
    assert "--force" in problem["message"]


def test_export_reports_all_unused_options_at_once(command: Command, checkpoint: Path) -> None:
    result = command("builder", "export", checkpoint, "--opt-batch", 4, "--masks", "masks", "--workspace-mib", 64)
    assert result.exit_code == 2
    assert all(option in result.stderr for option in ("--opt-batch", "--masks", "--workspace-mib"))
