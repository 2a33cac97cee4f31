"""Whether an open loop kept its schedule, and what else a reader must know about it."""

from __future__ import annotations

import numpy as np

from benchmarks.load.arrivals import Load, TraceArrivals
from benchmarks.load.generator import LATE_NS, SenderReport
from benchmarks.load.windows import Times, percentile
from benchmarks.records.record import Latencies, Slip

MAX_SLIP_MS = 1.0
MAX_SLIP_SHARE = 0.1
"""Largest p99 of the slip: `MAX_SLIP_MS`, or this share of the p99 latency if that is more."""
MIN_SENT_SHARE = 0.98
MAX_UNANSWERED = 0.05
MIN_UNANSWERED = 10


def due_between(start_ns: int, end_ns: int, requests: Times) -> Times:
    """Return the requests that were due in a time, whenever they ended."""
    return requests[(requests[:, 0] >= start_ns) & (requests[:, 0] < end_ns)]


def sent_between(start_ns: int, end_ns: int, requests: Times) -> int:
    """Return how many of the requests were sent in a time."""
    return int(((requests[:, 1] >= start_ns) & (requests[:, 1] < end_ns)).sum())


def slip_of(requests: Times) -> Slip:
    """Return how much later than intended requests [N, 3] were sent, N > 0."""
    slips_ns = np.sort(requests[:, 1] - requests[:, 0])
    return Slip(
        p50_ms=percentile(slips_ns, 50) / 1e6,
        p99_ms=percentile(slips_ns, 99) / 1e6,
        max_ms=int(slips_ns[-1]) / 1e6,
        late_share=float((slips_ns > LATE_NS).mean()),
    )


def refusal(latency: Latencies, slip: Slip, last: SenderReport, answered: int) -> str | None:
    """Return why p99 is no valid figure, because the client could not keep the schedule; None if it did.

    answered: requests of the whole level.
    """
    sent = answered + last.failed
    if last.blocked:
        return (
            f"{last.blocked} of {sent} requests had to wait for a sender, because as many as possible were in flight: "
            "the server does not keep up with this rate"
        )
    if sent < MIN_SENT_SHARE * (sent + last.unsent):
        return f"the client sent only {sent} of {sent + last.unsent} requests that were due; use more --processes"
    if slip.p99_ms > max(MAX_SLIP_MS, MAX_SLIP_SHARE * latency.p99_ms):
        return (
            f"the client sent late: p99 of the slip is {slip.p99_ms:.1f} ms, of the latency {latency.p99_ms:.1f} ms; "
            "use more --processes, or another machine than the server"
        )
    return None


def remark(load: Load, due: Times, ended: Times) -> str | None:
    """Return what a reader of a level must know: a queue that grew, or a pause in a trace.

    due: the requests that were due in the windows. ended: those that ended in them.
    """
    if isinstance(load, TraceArrivals):
        if load.pause is None:
            return None
        start_s, length_s = load.pause
        return f"the trace has a pause of {length_s:.1f} s, {start_s:.1f} s after its start"
    waiting = len(due) - len(ended)
    if waiting > max(MIN_UNANSWERED, MAX_UNANSWERED * len(due)):
        return (
            f"the queue grew: {len(due)} requests were due and {len(ended)} were answered, so latency grows as long as "
            "the load lasts"
        )
    return None
