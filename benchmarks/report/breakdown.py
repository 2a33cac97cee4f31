"""Where the time of a mean request goes, and in which batches it is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from benchmarks.records.perf_analyzer import CsvLevel
from benchmarks.records.record import Level, Record, ServerTime

AnyLevel = TypeVar("AnyLevel", bound=Level | CsvLevel)


def load_of(level: Level | CsvLevel) -> float:
    """Return the position of a level on an axis of loads: requests in flight, or requests a second."""
    return level.rate or level.concurrency or 0


def by_load(levels: Sequence[AnyLevel]) -> list[AnyLevel]:
    """Return levels by ascending load; a search measures them in another order."""
    return sorted(levels, key=load_of)


def breakdown_ms(level: Level, batch: int) -> dict[str, float]:
    """Return the parts of a mean request's time in milliseconds, in the order in which a request passes them.

    A part that is unknown is 0. An ensemble's time is shown by step. batch: images in each request.
    """
    client, server = level.client, level.server
    parts_us: dict[str, float | None] = {
        "decode": client.decode_us and client.decode_us * batch,
        "late send": (level.mean_ms - level.from_send.mean_ms) * 1e3 if level.from_send else None,
        "network": client.network_us,
    }
    if server and server.steps:
        for name, step in server.steps.items():
            parts_us[f"{name} queue"] = step.queue_us
            parts_us[f"{name} compute"] = _sum(step.input_us, step.infer_us, step.output_us)
    elif server:
        parts_us |= {"queue": server.queue_us, "input": server.input_us}
        parts_us |= {"infer": server.infer_us, "output": server.output_us}
    if server and server.request_us is not None:
        counted = _sum(server.queue_us, server.input_us, server.infer_us, server.output_us)
        parts_us["other"] = server.request_us - counted
    return {part: max(0, value or 0) / 1e3 for part, value in parts_us.items()}


def known_parts(record: Record) -> list[str]:
    """Return the parts that take time in at least one level, in the order in which a request passes them."""
    rows = [breakdown_ms(level, record.load.batch) for level in by_load(record.levels)]
    return [part for part in dict.fromkeys(part for row in rows for part in row) if any(row.get(part) for row in rows)]


def _sum(*values: float | None) -> float:
    return sum(value or 0 for value in values)


def batch_shares(level: Level) -> dict[tuple[int, int], float]:
    """Return the share of the executions for ranges of batch sizes: 1, 2, 3 to 4, 5 to 8, and so on.

    Of an ensemble: of the step with the longest inference. Empty without statistics.
    """
    batches = slowest_step(level.server)[1].batches if level.server else {}
    shares: dict[tuple[int, int], float] = {}
    for size, executions in sorted(batches.items()):
        last = 1 << math.ceil(math.log2(size))
        sizes = (last // 2 + 1, last) if size > 1 else (1, 1)
        shares[sizes] = shares.get(sizes, 0) + executions / sum(batches.values())
    return shares


def range_text(sizes: tuple[int, int]) -> str:
    """Return a range of batch sizes as text, such as `3-4`."""
    first, last = sizes
    return f"{first}" if first == last else f"{first}-{last}"


def slowest_step(server: ServerTime) -> tuple[str, ServerTime]:
    """Return the name and the times of an ensemble's step with the longest inference; else the model's, unnamed."""
    return max(server.steps.items(), key=lambda step: step[1].infer_us or 0, default=("", server))
