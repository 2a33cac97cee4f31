"""Drill: the memory of a pipeline's processes stays flat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from builder.object_pipeline.config import PipelineRequest
from builder.object_pipeline.publish import publish_pipeline
from server.process import Server
from tests.pipelines import picture, publish_members, write_config
from tests.serving import options_for, serving
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

REQUESTS, WARM_UP, ROUND = 10_000, 2_000, 500
MAX_SLOPE_KB = 100
"""Growth of one process in a thousand requests. A leak of one crop of 20 x 24 pixels would be 1.4 MB."""


def memory_of(server: Server) -> int:
    """Bytes of the processes in which the pipeline runs."""
    inside = f"{server.options.repository}/people/"
    found = [entry for entry in psutil.process_iter(["cmdline"]) if inside in " ".join(entry.info["cmdline"] or ())]
    assert found
    return sum(entry.memory_info().rss for entry in found) // len(found)


@pytest.mark.drill
def test_memory_is_flat_over_ten_thousand_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = publish_members(tmp_path)
    publish_pipeline(PipelineRequest(config=write_config(tmp_path), repository=repository))
    counts = [0, 1, 2, 3, 0, 1, 2, 3, 9, 60]
    pictures = {count: picture(count) for count in set(counts)}
    with (
        serving(options_for(repository)) as server,
        TritonRunner(TritonClient(server.options.grpc_url), "people") as runner,
        ThreadPoolExecutor(4) as clients,
    ):

        def ask(number: int) -> bool:
            count = counts[number % len(counts)]
            return len(runner.infer_encoded(pictures[count])["boxes"]) == count

        memory = []
        for start in range(0, REQUESTS + WARM_UP, ROUND):
            assert all(clients.map(ask, range(start, start + ROUND)))
            memory.append(memory_of(server))
    after = np.array(memory[WARM_UP // ROUND :], np.float64) / 1e3
    slope = float(np.polyfit(np.arange(len(after)) * ROUND / 1000, after, 1)[0])
    with capsys.disabled():
        print(f"\n{after[0]:,.0f} to {after[-1]:,.0f} kB in {REQUESTS:,} requests, {slope:+.1f} kB in a thousand")
    assert slope < MAX_SLOPE_KB
