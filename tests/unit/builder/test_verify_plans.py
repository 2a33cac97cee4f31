"""A plan is verified with its build record and its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from builder.repository.manifest import manifest_of
from builder.sources import source_from_checkpoint
from builder.tensorrt.precision import precision_problems
from builder.verification.plan_records import recorded_problems, with_stale_reason
from builder.verification.verify import precision_of
from tests.errors import error_codes
from tests.fixture_types import Command, MakeNetwork
from tests.plans import PLAN, build_record
from tritonkit.errors import Problem
from tritonkit.networks.network import save_network
from tritonkit.repository.build_record import BuildSettings
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE
from tritonkit.system.files import file_sha256

PASSED = Verdict(passed=True, format="trt", precision="fp16", images="a test", max_batch=4, limits=LIMITS["fp16"])


@pytest.fixture
def plan(tmp_path: Path, checkpoint: Path) -> Path:
    """A version folder with an fp16 plan whose records name the checkpoint as its source."""
    folder = tmp_path / "3"
    folder.mkdir()
    path = folder / "model.plan"
    path.write_bytes(PLAN)
    record(path)
    (folder / Verdict.FILE).write_text(PASSED.model_dump_json())
    (folder / Manifest.FILE).write_text(
        manifest_of(folder, checkpoint, "checkpoint pets.safetensors").model_dump_json()
    )
    return path


def record(plan: Path, **engine: int) -> None:
    engine = engine or {"fp16": 4}
    written = build_record(sha256=file_sha256(plan), computed={"fp16": 4}, engine=engine)
    plan.with_name(BUILD_FILE).write_text(written.model_dump_json())


def test_plan_has_the_precision_of_its_verdict_when_its_record_matches(plan: Path) -> None:
    assert (precision_of(plan), recorded_problems(plan, "fp16")) == ("fp16", [])
    plan.write_bytes(PLAN + b"another")
    assert precision_of(plan) == "fp32"
    plan.with_name(BUILD_FILE).unlink()
    assert (precision_of(plan), recorded_problems(plan, "fp32")) == ("fp32", [])


def test_plan_is_refused_when_its_engine_has_another_precision(plan: Path, checkpoint: Path, command: Command) -> None:
    record(plan, fp32=4)
    result = command("builder", "verify", plan, "--against", checkpoint, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)["error"]
    assert document["code"] == "verdict.failed"
    (problem,) = document["problems"]
    assert problem["code"] == "verdict.precision"
    assert "the engine computes in it: 4 in fp32" in problem["message"]


def test_plan_is_refused_when_its_record_is_of_another_plan(plan: Path, checkpoint: Path, command: Command) -> None:
    plan.write_bytes(PLAN + b"another")
    result = command("builder", "verify", plan, "--against", checkpoint, "--json")
    assert result.exit_code == 1
    assert error_codes(result) == {"verdict.failed", "verdict.plan"}


def test_plan_is_stale_when_it_was_built_from_another_file(
    plan: Path, checkpoint: Path, make_network: MakeNetwork, command: Command
) -> None:
    fresh = command("builder", "verify", plan, "--against", checkpoint)
    assert (fresh.exit_code, "stale" in fresh.stderr) == (2, False)  # no GPU here
    network = make_network("test_resnet")
    with torch.no_grad():
        network.backbone.get_classifier().weight.mul_(1.001)
    save_network(checkpoint, network)
    reason = f"stale plan: model.plan was not made from {checkpoint} "
    stale = command("builder", "verify", plan, "--against", checkpoint)
    assert (stale.exit_code, " ".join(reason.split()) in " ".join(stale.stderr.split())) == (2, True)
    source = source_from_checkpoint(checkpoint)
    assert with_stale_reason(PASSED, plan, source) == PASSED
    failed = PASSED.model_copy(update={"passed": False, "problems": (Problem("verdict.numbers", "x"),)})
    problems = with_stale_reason(failed, plan, source).problems
    assert [problem.code for problem in problems] == ["verdict.stale_plan", "verdict.numbers"]
    assert problems[0].message.startswith(reason)
    assert problems[0].message.endswith(" checkpoint pets.safetensors")


@pytest.mark.parametrize(("version_compatible", "codes"), [(False, ["verdict.precision"]), (True, [])])
def test_size_is_not_checked_for_version_compatible_plans(
    tmp_path: Path, version_compatible: bool, codes: list[str]
) -> None:
    weights = numpy_helper.from_array(np.zeros((1600, 1600), np.float16), "weights")
    graph, plan = tmp_path / "model.onnx", tmp_path / "model.plan"
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [weights])), graph)
    plan.write_bytes(PLAN + bytes(25 << 20))
    written = build_record(
        bytes=plan.stat().st_size,
        sha256=file_sha256(plan),
        graph_sha256=file_sha256(graph),
        computed={"fp16": 4},
        engine={"fp16": 4},
        settings=BuildSettings(max_batch=8, version_compatible=version_compatible),
    )
    assert [problem.code for problem in precision_problems(plan, graph, "fp16", written)] == codes
    in_fp32 = written.model_copy(update={"engine": {"fp32": 4}})
    assert "of the engine computes in it" in precision_problems(plan, graph, "fp16", in_fp32)[0].message


def test_missing_plan_gives_one_error(tmp_path: Path, checkpoint: Path, command: Command) -> None:
    result = command("builder", "verify", tmp_path / "model.plan", "--against", checkpoint)
    assert (result.exit_code, "model.plan" in result.stderr) == (2, True)
