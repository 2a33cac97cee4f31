"""`builder` on the command line: a verified version is published completely, or nothing changes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builder.repository.lint import check_repository
from builder.sources.images import PHOTOS, builtin_golden
from tests.errors import error_codes
from tests.fixture_types import Command, MakeNetwork
from tests.programs import console_script
from tests.serving import options_for, serving
from tritonkit.checkpoint import read_spec
from tritonkit.golden import Golden
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import ModelSpec
from tritonkit.triton.model_config import versions_of

KILLS = 3


@pytest.fixture
def golden(checkpoint: Path, spec: ModelSpec, make_network: MakeNetwork) -> Path:
    """A golden sample next to the checkpoint, as `train` writes it."""
    images = builtin_golden(spec.preprocess).images
    outputs = TorchRunner(make_network("test_resnet"), "x").infer(images)
    path = checkpoint.with_name("golden.npz")
    Golden(images, outputs, {"probabilities": outputs["probabilities"].argmax(axis=1)}).save(path)
    return path


def test_export_publishes_a_complete_version(command: Command, checkpoint: Path, golden: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    result = command("builder", "export", checkpoint, "--repository", repository, "--max-batch", 4, "--json")
    assert result.exit_code == 0, result.stderr
    published = json.loads(result.stdout)
    assert (published["model"], published["version"]) == ("pets", 1)
    assert sorted(path.name for path in (repository / "pets").iterdir()) == [
        "1",
        "config.pbtxt",
        "labels.txt",
        "model.json",
    ]
    verdict = json.loads((repository / "pets/1/verdict.json").read_text())
    assert verdict["passed"]
    assert [c["asked"] for c in verdict["comparisons"]][:3] == ["batch 1", "batch 3", "batch 4"]
    assert verdict["comparisons"][-1]["asked"] == "training"
    assert verdict["quality"] == {"checkpoint": {"accuracy": 1.0}, "artifact": {"accuracy": 1.0}}
    manifest = json.loads((repository / "pets/1/manifest.json").read_text())
    assert set(manifest["files"]) == {"model.onnx", "model.json", "verdict.json", "verdict.html", "golden.npz"}
    assert check_repository(repository) == []
    assert str(checkpoint.parent) not in (repository / "pets/1/model.onnx").read_bytes().decode("latin-1")


def test_export_is_refused_when_the_checkpoint_changed_since_training(
    command: Command, checkpoint: Path, golden: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    assert command("builder", "export", checkpoint, "--repository", repository).exit_code == 0
    sample = Golden.load(golden)
    outputs = {"probabilities": np.roll(sample.outputs["probabilities"], 1, axis=1)}
    Golden(sample.images, outputs, sample.targets).save(golden)
    refused = command("builder", "export", checkpoint, "--repository", repository, "--images", PHOTOS)
    assert refused.exit_code == 1
    assert "verdict.training: " in refused.stderr
    assert versions_of(repository / "pets") == [1]
    forced = command("builder", "export", checkpoint, "--repository", repository, "--force")
    assert forced.exit_code == 0
    assert "PUBLISHED ALTHOUGH THE VERDICT FAILED" in forced.stdout
    assert json.loads((repository / "pets/2/verdict.json").read_text())["forced"]
    assert [finding.severity for finding in check_repository(repository)] == ["warning"]


def test_verify_passes_a_right_artifact_and_fails_a_wrong_one(
    command: Command, checkpoint: Path, tiny_repository: Path
) -> None:
    artifact = tiny_repository / "pets/1/model.onnx"
    assert command("builder", "verify", artifact, "--against", checkpoint, "--max-batch", 4).exit_code == 0
    model = onnx.load(artifact)
    tensor = next(t for t in model.graph.initializer if t.name == "backbone.conv1.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, artifact)
    result = command("builder", "verify", artifact, "--against", checkpoint, "--max-batch", 4)
    assert result.exit_code == 1
    assert "weight tensor backbone.conv1.0.weight" in result.stdout
    assert "is all zeros" in result.stdout


def test_third_party_weights_are_exported_with_a_report_of_the_tensor_matching(
    command: Command, lite0: Path, photos: Path, tmp_path: Path
) -> None:
    arguments = ["--model", "tf_efficientnet_lite0", "--labels", lite0 / "labels.txt", "--name", "imagenet"]
    options = ["--repository", tmp_path / "repository", "--images", photos, "--max-batch", 4]
    result = command("builder", "export", lite0 / "efficientnet_lite0.pth", *arguments, *options)
    assert result.exit_code == 0, result.stderr
    assert "247 tensors matched by order (names differ): check the answers" in result.stdout
    document = json.loads(command("builder", "show", tmp_path / "repository/imagenet", "--json").stdout)
    assert document["spec"]["preprocess"]["crop_ratio"] == 0.875
    assert document["verdict"]["images"].startswith("4 pictures of")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--onnx", "fp16", "--keep-fp32", "blocks.*"], "option.keep_fp32"),
        (["--kind", "tpu"], "option.unknown_choice"),
        (["--threshold", "0.4"], "option.threshold_unused"),
        (["--probability"], "option.probability_unused"),
        (["--crop-ratio", "2"], "option.crop_ratio"),
        (["--fit", "pad", "--crop-ratio", "0.9"], "option.crop_ratio_unused"),
        (["--mean", "1,2"], "option.channels"),
        (["--std", "200,1,1"], "option.pixel_scale"),
        (["--size", "0"], "option.size"),
        (["--labels", "nowhere.txt"], "option.labels_missing"),
        (["--task", "embedding", "--labels", "nowhere.txt"], "option.labels_unused"),
    ],
)
def test_invalid_options_give_one_error_with_a_code(
    command: Command, checkpoint: Path, tmp_path: Path, arguments: list[str], code: str
) -> None:
    result = command("builder", "export", checkpoint, *arguments, "--repository", tmp_path / "repository", "--json")
    assert result.exit_code == 2
    assert code in error_codes(result)
    assert arguments[-1 if arguments[-1].startswith("--") else -2] in json.loads(result.stdout)["error"]["message"]
    assert not any((tmp_path / "repository").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["weights.pth"], "weights.pth: no such file"),
        (["{labels}"], "labels.pth: not a readable PyTorch checkpoint"),
        (["weights.pth", "--model", "resnet18"], "weights.pth: no such file"),
        (["{checkpoint}", "--name", "../outside"], "'../outside' cannot name a model"),
        (["{checkpoint}", "--trt", "fp16"], "--in-container"),
        (["{checkpoint}", "--config", "nowhere.pbtxt"], "nowhere.pbtxt: cannot be read"),
        (["{checkpoint}", "--images", "nowhere"], "nowhere: not a folder"),
        (["{checkpoint}", "--onnx", "int8", "--calibration", "nowhere"], "nowhere: not a folder"),
        (["{checkpoint}", "--name", "my model"], "expected up to 128 letters, digits"),
        (["{labels}", "--model", "resnet_19", "--labels", "{labels}"], "no model 'resnet_19'"),
    ],
)
def test_invalid_arguments_give_one_error(
    command: Command, checkpoint: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    labels = tmp_path / "labels.pth"
    labels.write_text("a\nb\n")
    filled = [argument.format(checkpoint=checkpoint, labels=labels) for argument in arguments]
    result = command("builder", "export", *filled, "--repository", tmp_path / "repository")
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not any((tmp_path / "repository").glob("*"))


@pytest.mark.drill
def test_repository_loads_after_exports_were_killed(checkpoint: Path, tiny_repository: Path) -> None:
    """Kill export processes at moments spread over their whole run; then a real Triton loads the repository.

    `test_kills.py` kills many more, which share one start.
    """
    before = read_spec(checkpoint)
    arguments = ["export", str(checkpoint), "--repository", str(tiny_repository), "--max-batch", "4"]
    program = [console_script("builder"), *arguments]
    began = time.monotonic()
    subprocess.run(program, check=True, capture_output=True)
    whole_s = time.monotonic() - began
    rng = random.Random(1)
    killed = 0
    for moment in range(KILLS):
        builder = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            builder.wait(whole_s * (moment + rng.random()) / KILLS)
        except subprocess.TimeoutExpired:
            os.kill(builder.pid, signal.SIGKILL)
            builder.wait()
            killed += 1
        assert [f for f in check_repository(tiny_repository) if f.severity == "error"] == []
    assert killed >= KILLS - 1  # the last one may have ended before
    with serving(options_for(tiny_repository)):
        pass
    subprocess.run(program, check=True, capture_output=True)
    assert interrupted_exports(tiny_repository) == []
    assert not staging_folder(tiny_repository).exists()
    assert read_spec(checkpoint) == before
