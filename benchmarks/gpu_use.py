"""Watches the GPUs of this machine during a load, with `nvidia-smi`."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from contextlib import suppress
from statistics import fmean
from typing import IO, NamedTuple, Self

from benchmarks.records.record import GpuUse

PERIOD_MS = 200
_FIELDS = ("index", "utilization.gpu", "memory.used", "power.draw")
_END_S = 5


class _Reading(NamedTuple):
    """One GPU at one time."""

    time_ns: int
    gpu: str
    utilization: float
    memory_mib: float
    watts: float | None


class GpuMonitor:
    """Reads utilization, memory and power of all GPUs five times a second, until it is closed."""

    def __init__(self) -> None:
        """Start to read; without `nvidia-smi` there are no readings."""
        self._readings: list[_Reading] = []
        tool = shutil.which("nvidia-smi")
        if tool is None:
            self._process = None
            return
        query = [tool, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits", f"-lms={PERIOD_MS}"]
        self._process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
        self._thread = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def use(self, start_ns: int, end_ns: int, images_per_s: float) -> GpuUse | None:
        """Return the means of a time, in nanoseconds of CLOCK_MONOTONIC; None without readings.

        Utilization is the mean of the GPUs, memory and power are their sums.
        """
        readings = [reading for reading in self._readings if start_ns <= reading.time_ns <= end_ns]
        gpus = {reading.gpu for reading in readings}
        if not gpus:
            return None
        watts = [reading.watts for reading in readings if reading.watts is not None]
        total_watts = fmean(watts) * len(gpus) if len(watts) == len(readings) else None
        return GpuUse(
            utilization=fmean(reading.utilization for reading in readings),
            memory_mib=fmean(reading.memory_mib for reading in readings) * len(gpus),
            watts=total_watts,
            joules_per_image=total_watts / images_per_s if total_watts is not None and images_per_s else None,
        )

    def close(self) -> None:
        """Stop reading."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_END_S)
            self._thread.join(_END_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            with suppress(ValueError):  # a driver in trouble prints a sentence
                gpu, utilization, memory, power = (cell.strip() for cell in line.split(","))
                watts = float(power) if "N/A" not in power else None
                reading = _Reading(time.perf_counter_ns(), gpu, float(utilization) / 100, float(memory), watts)
                self._readings.append(reading)
