"""`builder verify`: the batch sizes it tests, and the format and library in its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder.formats import BuildJob, builder_for
from builder.precision.cast import cast_graph
from builder.repository.manifest import manifest_of
from builder.sources.images import builtin_golden
from builder.verification.context import DEFAULT_MAX_BATCH, CachingRunner, verification_context
from builder.verification.verify import largest_batch, precision_of, verify_artifact
from tests.errors import raises
from tests.fixture_types import Command
from tritonkit.errors import ArtifactError, BatchError
from tritonkit.export_options import VerificationOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.tensorrt_plan import TRUST_VARIABLE
from tritonkit.spec import Outputs

MAX_BATCH = 4


class LimitedBatchRunner(Runner):
    """Runs another runner, but accepts at most `max_batch` images at once, like a plan."""

    def __init__(self, runner: Runner, max_batch: int) -> None:
        self.runner, self.spec, self.origin, self.max_batch = runner, runner.spec, "model.plan", max_batch

    def _infer(self, batch: ImageArray) -> Outputs:
        if self.max_batch is not None and len(batch) > self.max_batch:
            raise BatchError(f"the plan was built for up to {self.max_batch}")
        return self.runner.infer(batch)


def verdict_of(job: BuildJob, max_size: int, requested: int | None) -> Verdict:
    """The verdict of a right runner that accepts `max_size` images, at the batch `builder verify` would choose."""
    plan = CachingRunner(LimitedBatchRunner(job.source.reference, max_size))
    golden = builtin_golden(job.source.spec.preprocess)
    return verification_context(job.source, golden, largest_batch(requested, plan)).verify_answers(plan, "fp32")


def test_verify_passes_a_right_plan_without_a_requested_batch_size(job: BuildJob) -> None:
    verdict = verdict_of(job, MAX_BATCH, None)
    assert (verdict.passed, verdict.max_batch) == (True, MAX_BATCH)
    assert largest_batch(None, job.source.reference) == DEFAULT_MAX_BATCH


@pytest.mark.parametrize(("max_size", "works"), [(4, "1, 3"), (2, "1")])
def test_verify_does_not_report_a_fixed_batch_axis_when_it_is_limited(job: BuildJob, max_size: int, works: str) -> None:
    (problem,) = verdict_of(job, max_size, 8).problems
    assert problem.code == "verdict.batch"
    assert problem.message.startswith(f"a batch of {works} works, ")
    assert problem.message.endswith(f"(the plan was built for up to {max_size})")


def test_verify_reports_a_fixed_batch_axis_when_only_one_size_works(job: BuildJob) -> None:
    (problem,) = verdict_of(job, 1, 8).problems
    assert problem.code == "verdict.batch"
    assert problem.message.startswith("the batch axis is fixed: a batch of 1 works, a batch of 3, 8 fails")


@pytest.mark.parametrize(("name", "library"), [("torchscript", "torch"), ("openvino", "openvino")])
def test_verdict_contains_format_and_library_when_the_artifact_was_run(
    job: BuildJob, name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")  # no manifest names the hash of the file
    artifact = builder_for(name).write(replace(job, precision="fp32"))
    verdict = verify_artifact(artifact, job.source, MAX_BATCH, VerificationOptions())
    assert (verdict.passed, verdict.format) == (True, name)
    assert verdict.proven_by == f"the artifact itself, run by {library}"


def test_verdict_names_the_simulation_when_it_was_run(exported: Path, job: BuildJob, command: Command) -> None:
    onnx.save(cast_graph(onnx.load(job.graph), "fp16"), job.graph)
    words = ("builder", "verify", job.graph, "--against", exported / "pets.safetensors", "--max-batch", MAX_BATCH)
    verdict = json.loads(command(*words, "--json").stdout)
    assert (verdict["format"], verdict["precision"]) == ("onnx", "fp16")
    assert verdict["proven_by"] == "a simulation that rounds to fp16 where hardware would"


def test_precision_is_that_of_the_verdict_only_when_the_hashes_match(job: BuildJob, checkpoint: Path) -> None:
    artifact = job.folder / "model.xml"
    artifact.write_text("<net/>")
    verdict = Verdict(passed=True, precision="int8", images="a test", max_batch=4, limits=LIMITS["int8"])
    artifact.with_name(Verdict.FILE).write_text(verdict.model_dump_json())
    assert precision_of(artifact) == "fp32"  # without a manifest it may be the verdict of another file
    manifest = manifest_of(job.folder, checkpoint, "a test").model_dump_json()
    artifact.with_name(Manifest.FILE).write_text(manifest)
    assert precision_of(artifact) == "int8"
    artifact.write_text("<net></net>")
    assert precision_of(artifact) == "fp32"


def test_closed_runner_gives_the_answers_that_it_has(job: BuildJob) -> None:
    runner = CachingRunner(job.source.reference)
    images = builtin_golden(job.source.spec.preprocess).images
    answers = runner.infer(images[:2])
    runner.close()
    assert np.array_equal(runner.infer(images[:2])["probabilities"], answers["probabilities"])
    with raises(ArtifactError, "artifact.closed"):
        runner.infer(images[:3])
