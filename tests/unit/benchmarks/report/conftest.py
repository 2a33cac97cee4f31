"""A record with everything that a report can show."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load.histogram import encode_histogram
from benchmarks.records.record import ClientTime, GpuUse, Latencies, Level, Record, ServerTime, Slip

REASON = "the client sent only 92 % of the due requests"


def open_level(rate: float, mean_ms: float, **changes: object) -> Level:
    """A level of an open loop, of a model whose pictures the server decodes."""
    decoder = ServerTime(queue_us=100, input_us=10, infer_us=2000, output_us=10, mean_batch=1, batches={1: 40})
    model = ServerTime(
        queue_us=300, input_us=20, infer_us=4000, output_us=20, mean_batch=3, batches={1: 5, 3: 10, 4: 5}
    )
    latencies_ns = (np.linspace(0.5, 1.5, 1000) * mean_ms * 1e6).astype(np.int64)
    values: dict[str, object] = {
        "rate": rate,
        "images_per_s": rate * 0.99,
        "share_of_limit": rate / 400,
        "mean_ms": mean_ms,
        "p50_ms": mean_ms,
        "p90_ms": mean_ms * 1.4,
        "p95_ms": mean_ms * 1.45,
        "p99_ms": mean_ms * 1.49,
        "from_send": Latencies(mean_ms=mean_ms - 1, p50_ms=mean_ms - 1, p90_ms=9, p95_ms=9, p99_ms=mean_ms + 1.23),
        "slip": Slip(p50_ms=0.02, p99_ms=0.07, max_ms=3.3, late_share=0.004),
        "sent_per_s": rate,
        "requests": 1000,
        "errors": 0,
        "stable": True,
        "windows": 3,
        "histogram": encode_histogram(latencies_ns),
        "server": ServerTime(
            queue_us=400,
            input_us=30,
            infer_us=6000,
            output_us=30,
            request_us=6500,
            mean_batch=None,
            steps={"decoder": decoder, "colours": model},
        ),
        "client": ClientTime(cores=0.2, network_us=500),
        "gpu": GpuUse(utilization=0.83, memory_mib=2048, watts=301, joules_per_image=0.79),
    }
    return Level.model_validate({**values, **changes})


@pytest.fixture
def open_record(record: Record) -> Record:
    """An interrupted open loop: two good levels, and one whose client was late."""
    changes = {"scenario": "open", "arrivals": "poisson", "concurrency": (), "rates": (50, 100, 200, 400)}
    load = record.load.model_copy(update=changes)
    levels = (open_level(50, 8), open_level(100, 9), open_level(200, 77.7, refused=REASON))
    return record.model_copy(
        update={
            "load": load,
            "levels": levels,
            "incomplete": "stopped by Ctrl-C",
            "arguments": ("colours", "--url", "127.0.0.1:8001", "--rate", "50,100,200,400", "--images", "my photos"),
        }
    )
