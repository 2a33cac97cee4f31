from __future__ import annotations

import pytest

from benchmarks.load.arrivals import PoissonArrivals, TraceArrivals
from benchmarks.load.generator import SenderReport
from benchmarks.load.schedule import due_between, refusal, remark, slip_of
from benchmarks.load.windows import RequestTimes, Times, summarize, times_of

MS = 1_000_000


def sent_late(*slips_ms: float) -> Times:
    """Requests that took 50 ms each."""
    return times_of([RequestTimes(0, int(slip * MS), int(slip * MS) + 50 * MS) for slip in slips_ms])


def last(blocked: int = 0, unsent: int = 0, failed: int = 0) -> SenderReport:
    return SenderReport(times_of([]), 0, failed, None, blocked, unsent, is_finished=False)


def test_slip_is_the_delay_of_the_actual_send() -> None:
    slip = slip_of(sent_late(0, 0, 0.5, 3))
    assert (slip.p50_ms, slip.p99_ms, slip.max_ms, slip.late_share) == (0.5, 3, 3, 0.25)


@pytest.mark.parametrize(
    ("requests", "collected", "reason"),
    [
        (sent_late(0, 0.9), last(), None),
        (sent_late(*[4] * 100), last(), None),
        (sent_late(*[8] * 100), last(), "sent late"),
        (sent_late(*[0] * 100), last(unsent=2), None),
        (sent_late(*[0] * 100), last(unsent=3), "sent only 100 of 103"),
        (sent_late(*[0] * 50), last(unsent=2, failed=60), None),
        (sent_late(*[0] * 100), last(blocked=1), "1 of 100"),
    ],
)
def test_p99_is_refused_when_the_client_did_not_keep_the_schedule(
    requests: Times, collected: SenderReport, reason: str | None
) -> None:
    text = refusal(summarize(requests[:, 2] - requests[:, 0]), slip_of(requests), collected, len(requests))
    assert text is None if reason is None else reason in str(text)


def test_requests_count_by_the_time_at_which_they_were_due() -> None:
    requests = times_of([RequestTimes(due, due, due + 100) for due in (0, 5, 10, 15)])
    assert due_between(5, 15, requests)[:, 0].tolist() == [5, 10]


def test_a_growing_queue_and_a_pause_are_remarked() -> None:
    due = sent_late(*[0] * 100)
    assert remark(PoissonArrivals(10), due, due[:92]) is None
    assert "100 requests were due and 80 were answered" in str(remark(PoissonArrivals(10), due, due[:80]))
    trace = TraceArrivals((*(0.01 * number for number in range(50)), 20.0))
    assert remark(trace, due, due) == "the trace has a pause of 19.5 s, 0.5 s after its start"
    assert remark(TraceArrivals((0.0, 1.0)), due, due) is None
