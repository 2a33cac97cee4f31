"""The reload drill, short: versions change under load, and every answer is that of a version that was live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.drills.reload_drill import KEEP, MAX_FAILURES_LISTED, MODEL, Ledger, Networks, Traffic, drill, summarize
from tritonkit.spec import ModelSpec
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection


@pytest.mark.drill
def test_every_answer_is_of_a_live_version_when_versions_change_under_load(tmp_path: Path) -> None:
    completed = drill(tmp_path, seconds=8, every_s=1, threads=2, protocol="grpc").record
    assert (completed["failed"], completed["failures"]) == (0, [])
    assert completed["versions"] == 8
    assert len(completed["answered_by"]) > 8 // 2
    assert sum(completed["answered_by"].values()) == completed["requests"]
    assert completed["left"] == sorted(str(version) for version in range(8 + 2 - KEEP, 8 + 2))


def test_failures_are_all_counted_when_there_are_more_than_are_told(spec: ModelSpec, tmp_path: Path) -> None:
    networks = Networks((), np.zeros((1, 8, 8, 3), np.uint8), ())
    traffic = Traffic(TritonClient(Connection(url="127.0.0.1:1")), spec, networks, Ledger())
    traffic.failures += [f"failed: {number}" for number in range(MAX_FAILURES_LISTED + 5)]
    (tmp_path / MODEL / "1").mkdir(parents=True)
    completed = summarize(1, 3, traffic, tmp_path)
    counts = (completed.record["failed"], len(completed.record["failures"]), completed.record["requests"])
    assert counts == (MAX_FAILURES_LISTED + 5, MAX_FAILURES_LISTED, MAX_FAILURES_LISTED + 5)
    assert not all(completed.checks.values())


def test_version_counts_as_live_when_it_was_so_at_some_moment_of_the_request() -> None:
    ledger = Ledger(begun={1: 0.0, 2: 10.0}, loaded={1: 1.0, 2: 12.0})
    assert ledger.was_live(1, sent=2.0, answered=3.0)
    assert ledger.was_live(1, sent=11.9, answered=13.0)
    assert not ledger.was_live(1, sent=12.1, answered=13.0)
    assert ledger.was_live(2, sent=9.0, answered=10.1)
    assert not ledger.was_live(2, sent=8.0, answered=9.9)
    assert not ledger.was_live(3, sent=8.0, answered=20.0)


def test_answers_count_as_wrong_when_they_are_of_another_network() -> None:
    answers = tuple({"probabilities": np.full((1, 3), number / 10)} for number in range(3))
    networks = Networks((), np.zeros((1, 8, 8, 3), np.uint8), answers)
    assert networks.match(4, answers[1])
    assert not networks.match(5, answers[1])
