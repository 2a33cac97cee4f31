"""A repository that people wrote by hand is served, and looked at without false alarm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc

from builder.repository.lint import check_repository
from server.doctor.diagnosis import diagnose
from server.doctor.machine import Machine
from server.process import Options, Server
from tests.fixture_types import Command
from tests.integration.server import hand_written
from tests.serving import options_for, serving
from tritonkit.repository.finding import Finding

LAPTOP = Machine(memory_bytes=8 * 2**30, shared_memory_bytes=2**30)
SOUND = 'backend: "onnxruntime"\n' + hand_written.BATCHED


@pytest.fixture(scope="module")
def foreign_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("foreign") / "repository"
    hand_written.write_repository(repository)
    return repository


@pytest.fixture(scope="module")
def foreign_server(foreign_repository: Path) -> Iterator[Server]:
    """A Triton that serves all of it: `serving` insists on every model."""
    with serving(options_for(foreign_repository)) as server:
        yield server


def errors(findings: list[Finding]) -> list[str]:
    return [f"{finding.path}: {finding.code} {finding.message}" for finding in findings if finding.severity == "error"]


def test_what_triton_serves_is_no_error(foreign_repository: Path) -> None:
    checked, diagnosed = check_repository(foreign_repository), diagnose(Options(repository=foreign_repository), LAPTOP)
    assert errors(checked) == errors(diagnosed) == []
    for findings in (checked, diagnosed):
        unknown_folders = [Path(finding.path).name for finding in findings if finding.code == "repository.not_a_model"]
        assert unknown_folders == sorted(hand_written.OTHER_FOLDERS)


def test_a_folder_that_cannot_be_listed_is_no_model(foreign_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign_repository / "commented", tmp_path / "commented")
    (tmp_path / "lost+found").mkdir(mode=0)
    assert errors(check_repository(tmp_path)) == errors(diagnose(Options(repository=tmp_path), LAPTOP)) == []


@pytest.mark.parametrize(
    ("config", "folder", "problem"),
    [
        (None, "1", "names no backend"),
        (SOUND.replace("[3, 64, 64]", "[4, 64, 64]"), "1", "config.pbtxt says [4, 64, 64]"),
        (SOUND.replace("TYPE_FP32 dims: [3, 64", "TYPE_INT32 dims: [3, 64"), "1", "'input' has another type"),
        (SOUND.replace('"input"', '"picture"'), "1", "has no 'picture'"),
        (SOUND.replace("[3, 64, 64]", "[3, 0, 64]"), "1", "dims of 1 or more, or -1"),
        (SOUND + "dynamic_batching { preferred_batch_size: [16] }", "1", "preferred batch 16"),
        (SOUND + "instance_group { kind: KIND_CPU gpus: [0] }", "1", "KIND_CPU takes no gpus"),
        (SOUND + "version_policy { specific { versions: [5] } }", "1", "loads none of the versions"),
        (SOUND, "01", "has no version folder"),
        (SOUND, "1_old", "repository.misread_version"),
        ('name: "other"\n' + SOUND, "1", "name 'other'"),
        ('platform: "tensorrt_plan"\n' + SOUND, "1", "config.platform_backend"),
        ('platform: "ensemble"\n' + hand_written.IMAGES + hand_written.SCORES, "1", "has no ensemble_scheduling"),
        (hand_written.BATCHED + 'default_model_filename: "net.onnx"', "1", "names no backend"),
    ],
)
def test_what_keeps_a_model_from_loading_is_an_error(
    tmp_path: Path, config: str | None, folder: str, problem: str
) -> None:
    """Each was tried on Triton 24.10, which refuses it; a graph unlike its configuration, NVIDIA's backend does."""
    version = tmp_path / "model" / folder
    version.mkdir(parents=True)
    name = "net.onnx" if problem == "names no backend" else "model.onnx"
    onnx.save(hand_written.graph(outputs=1), version / name)
    if config is not None:
        (tmp_path / "model" / "config.pbtxt").write_text(config)
    assert any(problem in finding for finding in errors(check_repository(tmp_path)))


def test_status_and_reload_pass_over_folders_that_are_no_models(command: Command, foreign_server: Server) -> None:
    port = foreign_server.options.grpc_port
    status = command("server", "status", "--json")
    assert status.exit_code == 0, status.stdout
    reloaded = command("server", "reload", "--grpc-port", port)
    assert reloaded.exit_code == 0, reloaded.stderr
    assert "docs" not in status.stdout + reloaded.stdout


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "max_batch"),
    [
        ("absent", ["input FP32 [3, -1, -1]"], ["scores FP32 [3]"], 4),
        ("backend_alone", ["input FP32 [3, -1, -1]"], ["scores FP32 [3]"], 4),
        ("platform_alone", ["input FP32 [3, -1, -1]"], ["scores FP32 [3]"], 4),
        ("batch_alone", ["input FP32 [3, -1, -1]"], ["scores FP32 [3]"], 16),
        ("openvino_absent", ["input FP32 [3, -1, -1]"], ["scores FP32 [3]"], 4),
        ("scalars_absent", ["x INT64 [1]"], ["y INT64 [1]"], 4),
        ("python_absent", ["words STRING [-1]"], ["echo STRING [-1]"], 0),
        ("unbatched", ["input FP32 [-1, 3, 64, 64]"], ["scores FP32 [-1, 3]"], 0),
        ("chain", ["input FP32 [3, 64, 64]"], ["result FP32 [-1]"], 4),
    ],
)
def test_show_tells_what_triton_completed(
    command: Command, foreign_server: Server, model: str, inputs: list[str], outputs: list[str], max_batch: int
) -> None:
    completed = command("client", "show", model, "--url", foreign_server.options.grpc_url, "--json")
    document = json.loads(completed.stdout)
    for key, expected in (("inputs", inputs), ("outputs", outputs)):
        assert [f"{finding['name']} {finding['data_type']} {finding['dims']}" for finding in document[key]] == expected
    assert document["max_batch"] == max_batch
    assert document["versions"] == (["3"] if model == "absent" else ["1"])


def test_completed_models_answer(foreign_server: Server) -> None:
    client = tritonclient.grpc.InferenceServerClient(foreign_server.options.grpc_url)
    picture = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    for model in ("absent", "openvino_absent", "chain", "calling", "unbatched_chain", "folder_of_files"):
        tensor = tritonclient.grpc.InferInput("input", picture.shape, "FP32")
        tensor.set_data_from_numpy(picture)
        answer = client.infer(model, [tensor])
        scores = answer.as_numpy("result" if "chain" in model else "scores")
        np.testing.assert_allclose(scores, picture.mean(axis=(2, 3)), rtol=1e-4)
    number = tritonclient.grpc.InferInput("x", [2, 1], "INT64")
    number.set_data_from_numpy(np.array([[3], [4]]))
    assert client.infer("scalars_absent", [number]).as_numpy("y").ravel().tolist() == [-3, -4]


@pytest.mark.parametrize(
    ("model", "options", "source"),
    [
        ("commented", ["--batch", "8"], "generated: input FP32 [3, 64, 64]"),
        ("absent", ["--shape", "input:3,32,16", "--batch", "2"], "generated: input FP32 [3, 32, 16]"),
        ("unbatched", ["--shape", "input:2,3,64,64"], "generated: input FP32 [2, 3, 64, 64]"),
        ("sequences", ["--shape", "words:5"], "generated: words BYTES [5]"),
    ],
)
def test_bench_measures_any_model_with_generated_input(
    command: Command, foreign_server: Server, model: str, options: list[str], source: str
) -> None:
    timing = ["--window-s", 0.1, "--max-windows", 3, "--concurrency", 2, "--json"]
    result = command("bench", "run", model, "--url", foreign_server.options.grpc_url, *timing, *options)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["load"]["generated"] is True
    assert record["load"]["images_source"] == source
    assert record["limit"] is None
    assert record["levels"][0]["requests"] > 0


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("dynamic", [], "--shape input:3,224,224"),
        ("dynamic", ["--shape", "input:1,8,8"], "does not fit input FP32 [3, -1, -1]"),
        ("dynamic", ["--shape", "picture:3,8,8"], "has no input picture; it has input FP32"),
        ("dynamic", ["--shape", "input"], "expected NAME:SIZES"),
        ("commented", ["--batch", "9"], "takes at most 8"),
        ("commented", ["--images", "."], "takes no image files"),
        ("decoupled", ["--shape", "words:1"], "decoupled"),
    ],
)
def test_bench_refuses_what_it_cannot_send(
    command: Command, foreign_server: Server, model: str, options: list[str], message: str
) -> None:
    result = command("bench", "run", model, "--url", foreign_server.options.grpc_url, "--json", *options)
    assert result.exit_code == 2
    assert message in result.stderr
