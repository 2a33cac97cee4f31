"""`bench tune` on a real Triton: a model that sleeps, with a queue delay that makes it slow on any machine."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from benchmarks.tuning.space import NO_PREFERRED, SearchSpace, Workers
from benchmarks.tuning.tune import TuningPlan, tune
from server.process import Server
from tests.errors import raises
from tests.fixture_types import Command
from tests.programs import console_script
from tests.serving import options_for, serving
from tritonkit.errors import CheckFailedError
from tritonkit.repository.tuning.record import TuningGoal, TuningRecord
from tritonkit.triton.client import TritonClient

CONFIG = """# written by hand
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 150000 }
"""
MODEL = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep(0.005 * sum(map(len, arrays)))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", array)]) for array in arrays]
"""


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


def test_tune_finds_settings_without_the_delay_writes_and_undoes_them(command: Command, sleeper: Server) -> None:
    url, path = sleeper.options.grpc_url, sleeper.options.repository / "sleeper" / "config.pbtxt"
    goal = TuningGoal(target="throughput", p99_ms=1000, levels=(1, 4), batch=1)
    space = SearchSpace((Workers(2, None),), max_batch=(8,), delay_us=(0,), preferred=(NO_PREFERRED,))
    result = tune(TuningPlan("sleeper", url, goal, minutes=0.3, cores=2, space=space), lambda text, share: None)
    assert (result.winner.instances, result.written) == (2, str(path)), result.not_written
    assert TuningRecord.read_file(path.with_name("tuning.json")).previous == {"sleeper": CONFIG}
    assert command("builder", "check", sleeper.options.repository).exit_code == 0
    groups = served_config(sleeper)["instance_group"]
    assert isinstance(groups, list)
    assert groups[0]["count"] == 2
    assert command("bench", "tune", "sleeper", "--url", url, "--undo").exit_code == 0
    assert path.read_text() == CONFIG
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))


def test_a_killed_tune_changes_no_file_and_undo_restores_the_server(command: Command, sleeper: Server) -> None:
    arguments = ["sleeper", "--url", sleeper.options.grpc_url]
    program = [console_script("bench"), "tune", *arguments, "--p99-ms", "1000", "--concurrency", "1,4", "--cores", "2"]
    with subprocess.Popen([*program, "--minutes", "0.3"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and "bench_tune_trial" not in json.dumps(served_config(sleeper)):
            time.sleep(0.05)
        process.kill()
    assert (sleeper.options.repository / "sleeper" / "config.pbtxt").read_text() == CONFIG
    assert command("bench", "tune", *arguments, "--undo").exit_code == 0
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))
    assert "nothing_to_undo" in command("bench", "tune", *arguments, "--undo", "--json").stdout


def test_settings_that_are_refused_and_a_bound_that_is_too_low_are_reported(sleeper: Server) -> None:
    goal = TuningGoal(target="throughput", p99_ms=1, levels=(1,), batch=1)
    space = SearchSpace((Workers(1, None),), max_batch=(8,), profiles=("1",))
    plan = TuningPlan("sleeper", sleeper.options.grpc_url, goal, minutes=0.2, cores=2, space=space)
    with raises(CheckFailedError, "benchmark.bound_not_kept", "could be kept") as caught:
        tune(plan, lambda text, share: None)
    document = caught.value.document
    assert isinstance(document, dict)
    assert "profiles are for backend tensorrt" in document["trials"][1]["failed"]
