from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.load.gpu_monitor import GpuMonitor, GpuSample, parse_sample, summarize
from tests.programs import put_nvidia_smi_on_path


def test_the_gpu_that_works_is_sampled_during_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi_on_path(tmp_path, monkeypatch, "0, 80, 2048, 300.5", "1, 0, 10, 60.00")
    start_ns = time.perf_counter_ns()
    with GpuMonitor().running() as monitor:
        while len(monitor.samples) < 4:
            time.sleep(0.01)
    end_ns = start_ns + 2_000_000_000
    use = monitor.use_between(start_ns, end_ns, images=100)
    assert use is not None
    assert (use.gpus, use.utilization, use.memory_mib, use.watts) == (1, 0.8, 2048, 300.5)
    assert use.joules_per_image == pytest.approx(300.5 * 2 / 100)
    assert monitor.use_between(end_ns, end_ns + 1, images=1) is None


def test_without_a_gpu_there_is_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with GpuMonitor().running() as monitor:
        assert monitor.use_between(0, time.perf_counter_ns(), images=1) is None
    assert parse_sample("NVIDIA-SMI has failed because it could not communicate with the driver", 0) is None


def test_values_that_a_gpu_does_not_report_are_left_out() -> None:
    sample = parse_sample("0, [N/A], 512, [Not Supported]\n", 5)
    assert sample == GpuSample(5, 0, None, 512.0, None)
    use = summarize([sample], seconds=1, images=10)
    assert use is not None
    assert (use.utilization, use.memory_mib, use.watts, use.joules_per_image) == (None, 512, None, None)
