"""Options that nothing would read are refused, all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from typer.testing import Result

from builder.commands.option_rules import unused_options
from builder.precision.cast import reduced
from builder.targets import FormatName, Precision, Target

Command = Callable[..., Result]
NOT_GIVEN = {
    "opt_batch": None,
    "keep_fp32": None,
    "calibration": None,
    "converter": "edges",
    "masks": None,
    "data": None,
    "strict": False,
    "force": False,
}
GIVEN = {"opt_batch": 4, "keep_fp32": ["x"], "calibration": "photos", "converter": "autocast", "masks": "masks"}


@pytest.mark.parametrize(
    ("name", "precision", "unused"),
    [
        ("onnx", "fp32", ["--opt-batch", "--keep-fp32", "--calibration", "--converter"]),
        ("onnx", "int8", ["--opt-batch"]),
        ("openvino", "bf16", ["--opt-batch", "--keep-fp32", "--calibration", "--converter"]),
        ("openvino", "int8", ["--opt-batch", "--converter"]),
        ("torchscript", "fp32", ["--opt-batch", "--keep-fp32", "--calibration", "--converter"]),
        ("trt", "fp32", ["--keep-fp32", "--calibration", "--converter"]),
        ("rtx", "fp16", []),
    ],
)
def test_options_are_told_when_the_target_has_no_use_for_them(
    name: FormatName, precision: Precision, unused: list[str]
) -> None:
    target = Target(format=name, precision=precision)
    told = unused_options(target, {**NOT_GIVEN, **GIVEN})
    assert [sentence.partition(":")[0] for sentence in told] == [*unused, "--masks"]
    assert unused_options(target, NOT_GIVEN) == []


def test_strict_and_force_contradict_each_other(command: Command, checkpoint: Path) -> None:
    ran = command("builder", "export", checkpoint, "--onnx", "fp16", "--strict", "--force")
    assert ran.exit_code == 2
    assert "--strict: publishes nothing but what passes; leave out --force" in ran.stderr


def test_export_tells_all_unused_options_at_once(command: Command, checkpoint: Path) -> None:
    ran = command("builder", "export", checkpoint, "--opt-batch", 4, "--masks", "masks", "--workspace-mib", 64)
    assert ran.exit_code == 2
    assert all(option in ran.stderr for option in ("--opt-batch", "--masks", "--workspace-mib"))


def test_export_refuses_options_of_a_reduction_when_the_graph_is_reduced_already(
    command: Command, tiny_repository: Path, tmp_path: Path
) -> None:
    graph = tiny_repository / "pets/1/model.onnx"
    onnx.save(reduced(onnx.load(graph), "fp16"), tmp_path / "half.onnx")
    where = ["--repository", tmp_path / "repository"]
    ran = command("builder", "export", tmp_path / "half.onnx", "--onnx", "fp16", "--keep-fp32", "no_such", *where)
    assert ran.exit_code == 2
    assert "--keep-fp32: half.onnx is in fp16 already" in ran.stderr
