"""`bench tune` on a real Triton: a model that sleeps, so that a second instance doubles it on any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from server.process import Server
from tests.fixture_types import Command
from tests.programs import console_script
from tests.serving import options_for, serving
from tritonkit.triton.client import TritonClient

CONFIG = """# written by hand
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
MODEL = """
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        if json.loads(args["model_config"])["max_batch_size"] == 2:
            raise RuntimeError("two is too few")

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep(0.03 * sum(map(len, arrays)))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", array)]) for array in arrays]
"""
BOUND = ["--p99-ms", "1000", "--concurrency", "1,8", "--cores", "2"]


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("sleeping") / "repository"
    (repository / "sleeper" / "1").mkdir(parents=True)
    (repository / "sleeper" / "config.pbtxt").write_text(CONFIG)
    (repository / "sleeper" / "1" / "model.py").write_text(MODEL)
    with serving(options_for(repository)) as server:
        yield server


def served_config(server: Server) -> dict[str, object]:
    with TritonClient(server.options.grpc_url, tokens=server.tokens) as client:
        return client.config("sleeper")


def test_tune_finds_the_second_instance_writes_it_and_undoes_it(command: Command, sleeper: Server) -> None:
    arguments = ["sleeper", "--url", sleeper.options.grpc_url]
    result = command("bench", "tune", *arguments, *BOUND, "--minutes", 0.15, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["winner"]["instances"] == 2
    path = sleeper.options.repository / "sleeper" / "config.pbtxt"
    assert document["written"] == str(path)
    assert json.loads(path.with_name("tuning.json").read_text())["previous"] == {"sleeper": CONFIG}
    assert command("builder", "check", sleeper.options.repository).exit_code == 0
    groups = served_config(sleeper)["instance_group"]
    assert isinstance(groups, list)
    assert groups[0]["count"] == 2
    assert command("bench", "tune", *arguments, "--undo").exit_code == 0
    assert path.read_text() == CONFIG
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))


def test_a_killed_tune_leaves_the_files_and_its_next_start_restores_the_server(
    command: Command, sleeper: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = [console_script("bench"), "tune", "sleeper", "--url", sleeper.options.grpc_url, *BOUND]
    with subprocess.Popen([*program, "--minutes", "5"], env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while "bench_tune_trial" not in json.dumps(served_config(sleeper)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert (sleeper.options.repository / "sleeper" / "config.pbtxt").read_text() == CONFIG
    result = command(
        "bench", "tune", "sleeper", "--url", sleeper.options.grpc_url, *BOUND, "--minutes", 0.1, "--dry-run"
    )
    assert result.exit_code == 0, result.stderr
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))


def test_a_bound_that_no_settings_keep_is_the_answer_no(command: Command, sleeper: Server) -> None:
    arguments = ["sleeper", "--url", sleeper.options.grpc_url, "--concurrency", "1", "--cores", "1"]
    result = command("bench", "tune", *arguments, "--p99-ms", 1, "--minutes", 0.1)
    assert (result.exit_code, "could be kept" in result.stderr) == (1, True), result.stderr
