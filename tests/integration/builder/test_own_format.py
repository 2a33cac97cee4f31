"""A format of a plug-in: a record and a builder, used by every command that knows tritonkit's own formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from builder.formats import ArtifactBuilder, BuildJob, builder_for
from builder.repository.lint import check_repository
from tests.fixture_types import Command
from tritonkit import plugins
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.repository.reexport_command import reexport_command
from tritonkit.runtimes import Runner, open_artifact
from tritonkit.runtimes.formats import BUILT_IN, ArtifactFormat, Target, format_of, is_model_file, model_formats
from tritonkit.triton.model_config import holds_model

ORT = ArtifactFormat(
    name="ort",
    suffix=".ort",
    backend="onnxruntime",
    precisions=("fp32", "int8"),
    library="onnxruntime",
    runner="tritonkit.runtimes.onnxruntime:OnnxRuntimeRunner",
    builder="tests.integration.builder.test_own_format:OrtBuilder",
)


class OrtBuilder(ArtifactBuilder):
    """ONNX Runtime's own format."""

    format = ORT

    def write(self, job: BuildJob) -> Path:
        artifact = job.folder / self.format.file
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(artifact)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(job.graph, options, providers=["CPUExecutionProvider"])
        return artifact

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        return self.format.open(artifact)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format is known in this module alone."""
    monkeypatch.setitem(plugins._registered, "format", {})
    plugins.register("format", ORT.name)(lambda: ORT)


def test_file_of_an_own_format_is_known_by_its_suffix(tmp_path: Path) -> None:
    assert model_formats() == (*BUILT_IN, ORT)
    assert format_of("model.ort") == ORT
    assert is_model_file("model.ort")
    (tmp_path / "cats" / "1").mkdir(parents=True)
    (tmp_path / "cats" / "1" / "model.ort").touch()
    assert holds_model(tmp_path / "cats")


def test_own_format_does_not_replace_a_built_in_one() -> None:
    plugins.register("format", "onnx")(lambda: ORT.model_copy(update={"name": "onnx", "suffix": ".onnx"}))
    assert Target(format="onnx").record in BUILT_IN
    assert format_of("model.onnx") in BUILT_IN


@pytest.mark.parametrize("name", ["ONNX", "", "tflite"])
def test_target_of_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a format: onnx, .*ort; got"):
        Target(format=name)


def test_artifact_of_an_own_format_answers_as_the_network(job: BuildJob) -> None:
    artifact = builder_for("ort").write(job)
    images = np.random.default_rng(0).integers(0, 256, (3, *job.source.spec.input.shape), dtype=np.uint8)
    with open_artifact(artifact, threads=1) as runner:
        answers = runner.infer(images)
        assert runner.spec == job.source.spec
    for name, expected in job.source.reference.infer(images).items():
        np.testing.assert_allclose(answers[name], expected, atol=1e-5)


def test_export_in_an_own_format_is_verified_published_and_listed(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    result = command("builder", "export", checkpoint, "--format", "ort:int8", "--repository", repository, "--json")
    assert result.exit_code == 0, result.stderr
    published = json.loads(result.stdout)
    artifact = Path(published["artifact"])
    assert artifact.name == "model.ort"
    assert (published["verdict"]["format"], published["verdict"]["passed"]) == ("ort", True)
    assert 'default_model_filename: "model.ort"' in (artifact.parents[1] / "config.pbtxt").read_text()
    assert check_repository(repository) == []
    shown = command("builder", "show", artifact, "--json")
    assert json.loads(shown.stdout)["verdict"]["format"] == "ort"
    verified = command("builder", "verify", artifact, "--against", checkpoint, "--json")
    assert json.loads(verified.stdout)["format"] == "ort"
    again = reexport_command(VersionFolder(artifact.parent), repository)
    assert f"{checkpoint} --format ort:int8 --max-batch 32" in again
