"""Client processes, with a server that answers at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from numpy.typing import NDArray

from benchmarks.load.arrivals import ClosedLoop, ConstantArrivals
from benchmarks.load.level import Timing, measure_level
from benchmarks.load.processes import ProcessGenerator, Requests
from tests.errors import raises
from tritonkit.errors import ExternalError, InputError


class Answering:
    def infer(self, batch: int) -> dict[str, NDArray[Any]]:
        return {}


def open_requests(index: int, fails: bool = False) -> Requests:
    if fails:
        raise InputError("no such model", code="test.model")
    return Requests(Answering(), [0], lambda: None)


def test_processes_share_a_load_and_their_requests_are_merged() -> None:
    with ProcessGenerator(open_requests, 2) as generator:
        timing = Timing(window_s=0.2, max_windows=3, warm_up_s=0.1)
        level = measure_level(generator, ConstantArrivals(200), timing)
        assert level.requests_per_s == pytest.approx(200, rel=0.2)
        assert (level.processes, level.errors) == (2, 0)
        # With one request in flight, the second process has nothing to send.
        assert measure_level(generator, ClosedLoop(1), timing).requests > 0
        generator._workers[1].kill()
        with raises(ExternalError, "benchmark.client_process"):
            measure_level(generator, ClosedLoop(2), timing)


def test_the_error_of_a_process_is_raised() -> None:
    with raises(InputError, "test.model"):
        ProcessGenerator(partial(open_requests, fails=True), 1)
