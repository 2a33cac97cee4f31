"""What Polygraphy does not do, so that tritonkit has code of its own for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.tensorrt.build import build
from tests.programs import run_python
from tritonkit.repository.build_record import BuildSettings
from tritonkit.system.gpu import find_gpu

BOTH = """
import os
from polygraphy.mod.trt_importer import tensorrt_module_and_version_string
os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "0"
import polygraphy.backend.trt
print(tensorrt_module_and_version_string())
"""
TARGETS = """
from polygraphy.backend.trt import CreateConfig
CreateConfig(builder_optimization_level=1)
CreateConfig(compute_capabilities=["8.6"])
"""
OPEN = """
import sys
from tritonkit.runtimes.tensorrt_plan import find_tensorrt
sys.modules["tensorrt_rtx"] = find_tensorrt("rtx")
from polygraphy.backend.trt import engine_from_bytes
engine_from_bytes(open(sys.argv[1], "rb").read())
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own whose Polygraphy uses TensorRT for RTX."""
    return run_python("-c", code, *arguments, POLYGRAPHY_USE_TENSORRT_RTX="1")


def test_one_process_has_one_library() -> None:
    """Runners of plans and of RTX engines are open in one process, so `TensorRtRunner` is not Polygraphy's."""
    assert run(BOTH).stdout.strip() == "tensorrt_rtx>=1.0"


def test_target_gpus_of_an_rtx_engine_are_no_setting() -> None:
    """The build process sets them after Polygraphy has made the configuration."""
    assert "unexpected keyword argument 'compute_capabilities'" in run(TARGETS).stderr


@pytest.mark.skipif(find_gpu() is not None, reason="needs a machine without a GPU")
def test_engine_is_not_opened_without_a_gpu(exported_once: Path, tmp_path: Path) -> None:
    """So a plan's header is read by tritonkit, and its precision from its network and its size."""
    plan = tmp_path / "model.rtx"
    build(exported_once / "pets/1/model.onnx", plan, BuildSettings(flavour="rtx", max_batch=2), lambda step: None)
    assert "Could not deserialize engine" in run(OPEN, plan).stderr
