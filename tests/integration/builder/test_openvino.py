"""`--openvino`: the file contains its spec and its precision, and is verified in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.failures import CannotBuildError
from builder.formats import BuildJob, builder_for
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources.images import builtin_golden
from tests.errors import raises
from tests.fixture_types import NetworkOf
from tests.task_specs import COLOUR_AND_MARKS
from tritonkit.errors import ArtifactError
from tritonkit.networks.network import load_network
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.formats import Precision
from tritonkit.runtimes.openvino import OpenVinoRunner, has_bf16
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import ModelSpec

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")


@pytest.fixture
def job(job: BuildJob) -> BuildJob:
    """A job to build the residual network in fp32."""
    return replace(job, precision="fp32")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16), "int8"])
def test_export_passes_in_the_requested_precision(checkpoint: Path, tmp_path: Path, precision: Precision) -> None:
    request = ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=4, openvino=precision)
    published = export(request)
    assert published.verdict.passed
    assert published.verdict.precision == precision
    assert published.artifact.name == "model.xml"
    files = {path.name for path in published.artifact.parent.iterdir()}
    assert {"model.xml", "model.bin"} <= files
    assert str(tmp_path) not in published.artifact.read_text()


@needs_bf16
def test_file_stores_its_precision(job: BuildJob, spec: ModelSpec) -> None:
    images = builtin_golden(spec.preprocess).images
    expected = TorchRunner(load_network(job.source.path), "checkpoint").infer(images)["probabilities"]
    errors = {}
    for precision in ("fp32", "bf16"):
        artifact = builder_for("openvino").write(replace(job, precision=precision))
        with open_artifact(artifact) as runner:
            assert isinstance(runner, OpenVinoRunner)
            assert runner.spec == job.source.spec
            assert runner.precision == {"fp32": "f32", "bf16": "bf16"}[precision]
            errors[precision] = np.abs(runner.infer(images)["probabilities"] - expected).max()
    assert errors["fp32"] < 1e-6
    assert 1e-6 < errors["bf16"] < 0.05


def test_artifact_is_refused_when_openvino_runs_another_precision(job: BuildJob) -> None:
    kind = builder_for("openvino")
    artifact = kind.write(job)
    with raises(CannotBuildError, "openvino.other_precision"):
        kind.open_runner(artifact, replace(job, precision="bf16"))


def test_parameters_are_those_of_the_nvidia_backend(job: BuildJob) -> None:
    kind = builder_for("openvino")
    assert kind.parameters(job) == {"ENABLE_BATCH_PADDING": "YES"}
    assert kind.parameters(replace(job, precision="bf16")) == {"ENABLE_BATCH_PADDING": "YES", "HINT_BF16": "YES"}
    assert "NVIDIA" in kind.verification_method(job)
    assert "NVIDIA" not in kind.verification_method(replace(job, precision="bf16"))


def test_outputs_keep_their_names_at_any_batch(network_of: NetworkOf, job: BuildJob, tmp_path: Path) -> None:
    network = network_of(COLOUR_AND_MARKS)
    source = replace(job.source, module=network)
    source.write_graph(tmp_path / "heads.onnx")
    artifact = builder_for("openvino").write(replace(job, source=source, graph=tmp_path / "heads.onnx"))
    reference = TorchRunner(network, "network")
    runner = OpenVinoRunner(artifact, threads=1)
    images = np.random.default_rng(0).integers(0, 256, (7, *network.spec.input.shape), dtype=np.uint8)
    for batch in (images[:1], images[:3], images):
        answers = runner.infer(batch)
        assert list(answers) == [output.name for output in network.spec.outputs]
        for name, expected in reference.infer(batch).items():
            np.testing.assert_allclose(answers[name], expected, atol=1e-5)


def test_runner_serves_several_threads(job: BuildJob) -> None:
    runner = OpenVinoRunner(builder_for("openvino").write(job))
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    single_answers = runner.infer(images)["probabilities"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: runner.infer(images[i : i + 1])["probabilities"][0], range(32)))
    np.testing.assert_allclose(answers, single_answers, atol=1e-6)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("text", "Error parsing element"),
        ("weights", "Incorrect weights in bin file"),
        ("no weights", "bin file cannot be found"),
        ("no spec", "contains no model spec"),
    ],
)
def test_damaged_file_gives_one_error(job: BuildJob, broken: str, expected: str) -> None:
    artifact = builder_for("openvino").write(job)
    if broken == "text":
        artifact.write_text("<net is not")
    elif broken == "weights":
        artifact.with_suffix(".bin").write_bytes(b"short")
    elif broken == "no weights":
        artifact.with_suffix(".bin").unlink()
    else:
        artifact.write_text(artifact.read_text().replace("model.json", "model.txt"))
    with pytest.raises(ArtifactError, match=expected) as caught:
        open_artifact(artifact)
    assert len(str(caught.value).splitlines()) == 1
