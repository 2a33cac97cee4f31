"""Watches the GPUs of this machine during a load, through NVIDIA's `nvidia-smi`."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from benchmarks.records.record import GpuUse

INTERVAL_MS = 500
FIELDS = ("index", "utilization.gpu", "memory.used", "power.draw")


class GpuSample(NamedTuple):
    """What `nvidia-smi` reports of one GPU; None for a value that this GPU does not report."""

    time_ns: int
    """Of `time.perf_counter_ns`."""
    gpu: int
    utilization_percent: float | None
    memory_mib: float | None
    watts: float | None


class GpuMonitor:
    """Samples all GPUs twice a second, from one `nvidia-smi` process; without a GPU it has no samples."""

    def __init__(self) -> None:
        self.samples: list[GpuSample] = []

    @contextmanager
    def running(self) -> Iterator[GpuMonitor]:
        """Take samples during the block."""
        tool = shutil.which("nvidia-smi")
        if tool is None:
            yield self
            return
        command = [tool, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}"]
        with subprocess.Popen(  # noqa: S603 - the program that the PATH names
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None  # noqa: S101 - for mypy
            reader = threading.Thread(target=self._read, args=(process.stdout,), name="gpu monitor", daemon=True)
            reader.start()
            try:
                yield self
            finally:
                process.terminate()
                reader.join()

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if sample := parse_sample(line, time.perf_counter_ns()):
                self.samples.append(sample)

    def use_between(self, start_ns: int, end_ns: int, images: int) -> GpuUse | None:
        """Return the use of the GPUs between two times; None without a GPU that worked.

        images: images answered in this time, for the energy of one.
        """
        inside = [sample for sample in self.samples.copy() if start_ns <= sample.time_ns <= end_ns]
        return summarize(inside, (end_ns - start_ns) / 1e9, images)


def parse_sample(line: str, time_ns: int) -> GpuSample | None:
    """Parse a CSV line of `nvidia-smi`, such as `0, 87, 2048, 301.22`; None for another line, such as an error."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(FIELDS) or not words[0].isdigit():
        return None
    return GpuSample(time_ns, int(words[0]), *map(_number, words[1:]))


def _number(word: str) -> float | None:
    """Parse a number; None for `[N/A]` and `[Not Supported]`."""
    try:
        return float(word)
    except ValueError:
        return None


def summarize(samples: Sequence[GpuSample], seconds: float, images: int) -> GpuUse | None:
    """Return the mean use of the GPUs that worked; GPUs with a utilization of 0 in all samples are left out.

    A GPU that does not report its utilization (a MIG slice) counts as working.
    """
    by_gpu = [list(group) for _, group in groupby(sorted(samples, key=attrgetter("gpu")), key=attrgetter("gpu"))]
    working = [group for group in by_gpu if any(sample.utilization_percent != 0 for sample in group)]
    if not working:
        return None
    utilization = _means(working, lambda sample: sample.utilization_percent)
    memory, watts = _means(working, lambda sample: sample.memory_mib), _means(working, lambda sample: sample.watts)
    return GpuUse(
        gpus=len(working),
        utilization=sum(utilization) / len(utilization) / 100 if utilization else None,
        memory_mib=sum(memory) if memory else None,
        watts=sum(watts) if watts else None,
        joules_per_image=sum(watts) * seconds / images if watts and images else None,
    )


def _means(groups: Sequence[Sequence[GpuSample]], value_of: Callable[[GpuSample], float | None]) -> list[float]:
    """Return the mean of a value for each GPU that reports it."""
    values = [[value for sample in group if (value := value_of(sample)) is not None] for group in groups]
    return [sum(row) / len(row) for row in values if row]
