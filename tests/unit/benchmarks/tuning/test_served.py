from __future__ import annotations

import time
from threading import Lock

import pytest

from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.generator import ThreadGenerator
from benchmarks.load.level import measure_level
from benchmarks.tuning.served import figures_of, trial_timing


class OneAtATime:
    """Answers one request after the other, each in 20 ms."""

    def __init__(self) -> None:
        self._lock = Lock()

    def infer(self, batch: object) -> None:
        with self._lock:
            time.sleep(0.02)


@pytest.mark.parametrize(("concurrency", "is_sound"), [(2, True), (64, False)])
def test_a_level_too_short_for_its_requests_does_not_count(concurrency: int, is_sound: bool) -> None:
    generator = ThreadGenerator(OneAtATime(), [None])
    figures = figures_of(measure_level(generator, ClosedLoop(concurrency), trial_timing(0.4)), batch=1)
    assert figures.is_sound == is_sound
    assert is_sound or "fewer requests ended than were in flight" in str(figures.refused)
