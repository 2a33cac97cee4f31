from __future__ import annotations

import pytest

from benchmarks.server_time import served_settings, server_time
from tritonkit.triton.client import Statistics


def test_means_are_those_of_a_request() -> None:
    counted = Statistics(
        requests=11, failures=1, images=20, executions=5, queue_count=10, queue_ns=30_000, computed=10,
        input_ns=10_000, infer_ns=200_000, output_ns=20_000, request_ns=300_000, batches={4: 5},
    )  # fmt: skip
    time = server_time("cats", {"cats": counted})
    assert time is not None
    assert (time.queue_us, time.input_us, time.infer_us, time.output_us, time.request_us) == (3, 1, 20, 2, 30)
    assert (time.mean_batch, time.batches) == (4, {4: 5})
    ensemble = server_time("cats_encoded", {"cats_encoded": counted, "cats_decode": counted, "cats": counted})
    assert ensemble is not None
    assert (ensemble.queue_us, ensemble.infer_us, ensemble.batches) == (6, 20, {})
    assert {name: step.batches for name, step in ensemble.steps.items()} == {"cats_decode": {4: 5}, "cats": {4: 5}}


def test_an_ensemble_that_the_server_runs_as_one_model_has_no_steps() -> None:
    counted = Statistics(requests=2, executions=2, queue_count=2, queue_ns=4_000, batches={1: 2})
    whole = server_time("cats_encoded", {"cats_encoded": counted, "cats_decode": Statistics(), "cats": Statistics()})
    assert whole is not None
    assert (whole.queue_us, whole.batches, whole.steps) == (2, {1: 2}, {})
    assert server_time("cats", {"cats": Statistics()}) is server_time("cats", {}) is None


@pytest.mark.parametrize("number", [int, str])
def test_settings_are_read_over_both_protocols(number: type) -> None:
    config = {
        "max_batch_size": number(8),
        "instance_group": [{"name": "cats_0", "kind": "KIND_CPU", "count": number(2)}],
        "dynamic_batching": {"max_queue_delay_microseconds": number(100)},
        "response_cache": {"enable": True},
        "parameters": {"intra_op_thread_count": {"string_value": "1"}, "tritonkit": {"string_value": "{}"}},
    }
    assert served_settings(config) == {
        "max_batch_size": 8,
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "dynamic_batching": {"max_queue_delay_microseconds": 100, "preferred_batch_size": []},
        "parameters": {"intra_op_thread_count": "1"},
        "response_cache": True,
    }
