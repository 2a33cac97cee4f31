"""The settings that a search may try."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from tritonkit.repository.tuning.settings import ServingSettings

DELAYS_US = (0, 500, 1000, 2000, 5000)
GPU_INSTANCES = (1, 2, 3, 4)
NO_PREFERRED, HALF = "none", "half"
"""Preferred sizes: Triton's default, or half of the largest batch and the largest batch."""


class Workers(NamedTuple):
    """How a model uses the cores: instances, and threads of each; None: the default of the backend."""

    instances: int
    threads: int | None

    def __str__(self) -> str:
        return f"{self.instances}" if self.threads is None else f"{self.instances} x {self.threads}"

    def threads_on(self, cores: int) -> int:
        """The threads of each instance on a machine: by default, instances share the cores."""
        return self.threads or max(1, cores // self.instances)


@dataclass(frozen=True)
class SearchSpace:
    """The values of each setting."""

    workers: tuple[Workers, ...]
    max_batch: tuple[int, ...]
    delay_us: tuple[int, ...] = DELAYS_US
    preferred: tuple[str, ...] = (NO_PREFERRED, HALF)
    cuda_graphs: tuple[bool, ...] = (False,)
    profiles: tuple[str | None, ...] = (None,)

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Return the values by the names that a search stores."""
        return {
            "workers": tuple(map(str, self.workers)),
            "max_batch_size": self.max_batch,
            "max_queue_delay_microseconds": self.delay_us,
            "preferred_batch_size": self.preferred,
            "cuda_graphs": self.cuda_graphs,
            "profile": self.profiles,
        }

    def settings(self, chosen: dict[str, Any]) -> ServingSettings:
        """Return the settings of stored values."""
        workers = next(workers for workers in self.workers if str(workers) == chosen["workers"])
        largest = chosen["max_batch_size"]
        # Below 4, half of the largest batch is a batch of 1.
        has_preferred = chosen["preferred_batch_size"] == HALF and largest >= 4
        return ServingSettings(
            max_batch=largest,
            instances=workers.instances,
            threads=workers.threads,
            # One request fills a batch of 1, so it never waits.
            delay_us=chosen["max_queue_delay_microseconds"] if largest > 1 else 0,
            preferred=(largest // 2, largest) if has_preferred else (),
            cuda_graphs=chosen["cuda_graphs"],
            profile=chosen["profile"],
        )

    def all(self) -> dict[ServingSettings, dict[str, Any]]:
        """Return all different settings, with their stored values."""
        choices = self.choices()
        combinations = (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))
        different: dict[ServingSettings, dict[str, Any]] = {}
        for chosen in combinations:
            different.setdefault(self.settings(chosen), chosen)
        return different


def cpu_workers(cores: int, takes_threads: bool) -> tuple[Workers, ...]:
    """Return instances and threads whose product is from half the cores to twice the cores.

    One instance has all cores by default, so that its threads need no setting.
    """
    sizes = powers_of_two(cores)
    if not takes_threads:
        return tuple(Workers(instances, None) for instances in sizes)
    return tuple(
        Workers(instances, None if (instances, threads) == (1, cores) else threads)
        for instances, threads in product(sizes, sizes)
        if cores / 2 <= instances * threads <= 2 * cores
    )


def powers_of_two(largest: int, smallest: int = 1) -> tuple[int, ...]:
    """Return the powers of two from `smallest` to `largest`, and both ends."""
    powers = {1 << power for power in range(largest.bit_length())}
    return tuple(sorted(size for size in {*powers, smallest, largest} if smallest <= size <= largest))
