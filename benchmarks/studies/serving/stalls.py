"""Measure a server that stalls, as an open loop and as a closed loop see it.

Triton answers through a proxy that forwards nothing for `stall-s` in each `every-s`. An open loop charges a stall to
all requests that were due meanwhile. A closed loop sends nothing while it waits: a stall is one slow request of many.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.inputs import batches_of
from benchmarks.load.arrivals import ClosedLoop, Load, PoissonArrivals
from benchmarks.load.generator import ThreadGenerator
from benchmarks.load.level import LevelMeasurement, Timing, measure_level
from benchmarks.studies.local_triton import publish_network, serve, tiny_network
from benchmarks.studies.study import Result, command
from scripts.drills.tcp_proxy import open_proxy, stalling
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

MODEL = "tiny"
SEEN, HIDDEN = 0.8, 0.2
"""Shares of the stall: p99 of the open loop is above the first, that of the closed loop below the second."""


def measure(stall_s: float = 1.0, every_s: float = 10.0, periods: int = 6, rate: float = 20.0) -> Result:
    """Measure both loops over the same number of stalls."""
    network = tiny_network(MODEL)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    timing = Timing(window_s=every_s, max_windows=periods, warm_up_s=min(1.0, every_s))
    found: dict[str, LevelMeasurement] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        publish_network(network, repository, MODEL, 8, onnx="fp32", kind="cpu", encoded=False, force=True)
        with serve(repository) as triton, open_proxy(triton.options.grpc_port) as proxy:
            loads: dict[str, Load] = {"open loop": PoissonArrivals(rate), "closed loop": ClosedLoop(1)}
            for name, load in loads.items():
                with stalling(proxy, stall_s, every_s), TritonClient(f"127.0.0.1:{proxy.port}") as client:
                    senders = ThreadGenerator(TritonRunner(client, MODEL), batches_of(images, 1))
                    found[name] = measure_level(senders, load, timing)
    p99_s = {name: round(level.latency.p99_ms / 1e3, 3) for name, level in found.items()}
    return Result(
        {
            "stall_s": stall_s,
            "every_s": every_s,
            "loads": {name: str(load) for name, load in loads.items()},
            "requests": {name: level.requests for name, level in found.items()},
            "p99_s": p99_s,
            "refused": {name: level.refused for name, level in found.items() if level.refused},
        },
        {
            f"open loop: p99 {p99_s['open loop']} s shows a stall of {stall_s} s": p99_s["open loop"] > SEEN * stall_s,
            f"closed loop: p99 {p99_s['closed loop']} s hides it": p99_s["closed loop"] < HIDDEN * stall_s,
        },
    )


if __name__ == "__main__":
    command(measure)()
