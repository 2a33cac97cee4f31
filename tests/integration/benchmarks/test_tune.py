"""`bench tune` on a real Triton: a model that sleeps, with a queue delay that makes it slow on any machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.records.record import read_record
from benchmarks.tuning.served import TrialServer, config_from_json
from benchmarks.tuning.space import NO_PREFERRED, SearchSpace, Workers
from benchmarks.tuning.subject import TuningPlan
from benchmarks.tuning.tune import tune
from server.process import Server
from tests.errors import error_codes, raises
from tests.fixture_types import Command
from tritonkit.errors import CheckFailedError
from tritonkit.repository.tuning.record import TuningGoal, TuningRecord
from tritonkit.repository.tuning.settings import ServingSettings
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
def sleeper(triton: Server) -> Iterator[Server]:
    """The server that all tests share, with one more model."""
    model = triton.options.repository / "sleeper"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(MODEL)
    with TritonClient(triton.options.grpc_url, tokens=triton.tokens) as client:
        client.load("sleeper")
        yield triton
        client.unload("sleeper")
    shutil.rmtree(model)


def served_config(server: Server) -> dict[str, object]:
    with TritonClient(server.options.grpc_url, tokens=server.tokens) as client:
        return client.config("sleeper")


def test_tune_finds_settings_without_the_delay_writes_and_undoes_them(
    command: Command, sleeper: Server, tmp_path: Path
) -> None:
    url, path = sleeper.options.grpc_url, sleeper.options.repository / "sleeper" / "config.pbtxt"
    goal = TuningGoal(target="throughput", p99_ms=1000, levels=(4,), batch=1)
    space = SearchSpace((Workers(2, None),), max_batch=(8,), delay_us=(0,), preferred=(NO_PREFERRED,))
    record = tmp_path / "tuned.json"
    plan = TuningPlan("sleeper", url, goal, minutes=0.25, cores=2, space=space, output=record)
    result = tune(plan, lambda text, share: None)
    assert (result.winner.instances, result.written) == (2, str(path)), result.not_written
    assert TuningRecord.read_file(path.with_name("tuning.json")).previous == {"sleeper/config.pbtxt": CONFIG}
    after, before = (read_record(Path(written)) for written in result.records)
    assert after.run_id == before.run_id
    assert [each.subject.settings["instance_group"][0]["count"] for each in (after, before)] == [2, 1]
    assert max(level.images_per_s for level in after.levels) > max(level.images_per_s for level in before.levels)
    groups = served_config(sleeper)["instance_group"]
    assert isinstance(groups, list)
    assert groups[0]["count"] == 2
    assert command("bench", "tune", "sleeper", "--url", url, "--undo").exit_code == 0
    assert path.read_text() == CONFIG
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))


def test_undo_restores_a_server_whose_tune_was_killed(command: Command, sleeper: Server) -> None:
    """A killed process cannot load the original configuration again."""
    with TritonClient(sleeper.options.grpc_url, tokens=sleeper.tokens) as control:
        original = config_from_json(control.config("sleeper"))
        current = ServingSettings.from_config(original)
        killed = TrialServer(control, original, current, runner=None, batches=())
        killed.load(current.model_copy(update={"max_batch": 4}))
    assert "bench_tune_trial" in json.dumps(served_config(sleeper))
    arguments = ["sleeper", "--url", sleeper.options.grpc_url, "--undo", "--json"]
    assert command("bench", "tune", *arguments).exit_code == 0
    assert "bench_tune_trial" not in json.dumps(served_config(sleeper))
    assert error_codes(command("bench", "tune", *arguments)) == {"benchmark.nothing_to_undo"}


def test_settings_that_are_refused_and_a_bound_that_is_too_low_are_reported(sleeper: Server) -> None:
    goal = TuningGoal(target="throughput", p99_ms=1, levels=(1,), batch=1)
    space = SearchSpace((Workers(1, None),), max_batch=(8,), profiles=("1",))
    plan = TuningPlan("sleeper", sleeper.options.grpc_url, goal, minutes=0.1, cores=2, space=space)
    with raises(CheckFailedError, "benchmark.bound_not_kept", "could be kept") as caught:
        tune(plan, lambda text, share: None)
    document = caught.value.document
    assert isinstance(document, dict)
    assert "profiles are for backend tensorrt" in document["trials"][1]["failed"]
