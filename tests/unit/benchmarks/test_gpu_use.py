from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.gpu_use import GpuMonitor
from benchmarks.records.record import GpuUse


def nvidia_smi(folder: Path, *lines: str) -> None:
    """A program that prints what the driver's tool prints, again and again."""
    tool = folder / "nvidia-smi"
    printed = "\n".join(f"echo '{line}'" for line in lines)
    tool.write_text(f"#!/bin/sh\nwhile :\ndo\n{printed}\nsleep 0.02\ndone\n")
    tool.chmod(0o755)


def watch(path: str, monkeypatch: pytest.MonkeyPatch) -> GpuUse | None:
    monkeypatch.setenv("PATH", path)
    start_ns = time.perf_counter_ns()
    with GpuMonitor() as monitor:
        deadline = time.monotonic() + 5
        while (use := monitor.use(start_ns, time.perf_counter_ns(), 100)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
    return use


def test_two_gpus_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "0, 80, 1000, 300.0", "1, 80, 1000, 300.0", "trouble")
    use = watch(f"{tmp_path}:/usr/bin:/bin", monkeypatch)
    assert use is not None
    assert use.utilization == pytest.approx(0.8)
    assert use.watts in (300, 600), "the first reading may have come alone"
    assert use.joules_per_image == pytest.approx((use.watts or 0) / 100)


def test_a_gpu_without_a_power_sensor_has_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "0, 5, 200, [N/A]")
    assert watch(f"{tmp_path}:/usr/bin:/bin", monkeypatch) == GpuUse(
        utilization=0.05, memory_mib=200, watts=None, joules_per_image=None
    )


def test_a_machine_without_a_gpu_has_no_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with GpuMonitor() as monitor:
        assert monitor.use(0, time.perf_counter_ns(), 100) is None
