"""Measure candidates as served: one Triton, the commands `server` and `bench`, rounds in alternating order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from builder.optimization.choice import speed
from builder.optimization.request import OptimizeRequest
from tritonkit.errors import ExternalError, TritonkitError, first_line
from tritonkit.repository.optimization import Goal, RoundFigures, ServedLoad
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.system.commands import run_command, serving

CONCURRENCY: dict[Goal, int] = {"throughput": 32, "latency": 1}
"""Requests in flight, each of one image."""
BOUNDED = (1, 2, 4, 8, 16, 32)
"""Requests in flight of the first round under a bound; later rounds repeat the best of them and the next lower one."""
MAX_WINDOWS = 5
RESTART_S = 60
"""Time that a Triton that crashed may take to answer again."""


@dataclass
class Measurements:
    """What was measured, by the name of the candidate's model."""

    rounds: dict[str, dict[int, list[RoundFigures]]] = field(default_factory=dict)
    """Figures of each round, by the requests in flight."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a candidate could not be served or measured."""
    machine: dict[str, Any] = field(default_factory=dict)

    def loads(self, name: str) -> tuple[ServedLoad, ...]:
        """The medians of one candidate, by the requests in flight."""
        return tuple(served_load(number, rounds) for number, rounds in sorted(self.rounds.get(name, {}).items()))


def measure(
    request: OptimizeRequest, repository: Path, samples: Path, names: Sequence[str], report: ProgressCallback
) -> Measurements:
    """Serve models of a repository and measure them in turns.

    samples: a folder with the golden sample of each model, in the layout of a repository. Raises the error of
    `server up` if no model can be served.
    """
    measured = Measurements()
    report("starting Triton")
    with _serve(repository, names, request.runtime, measured.failures) as port:
        bench = ("--url", f"127.0.0.1:{port}", "--repository", samples, "--batch", 1)
        timing = ("--window-s", request.window_s, "--max-windows", MAX_WINDOWS)
        for number in range(request.rounds):
            for name in list(names)[:: -1 if number % 2 else 1]:
                if name in measured.failures:
                    continue
                report(f"measuring, round {number + 1} of {request.rounds}: {name}")
                levels = next_levels(request.target, request.p99_ms, measured.loads(name))
                load = ("--concurrency", ",".join(map(str, levels)))
                try:
                    record = run_command("bench", "run", name, *bench, *load, *timing)
                except TritonkitError as error:
                    measured.failures[name] = _reason(error)
                    _load([other for other in names if other not in measured.failures], port, measured.failures)
                    continue
                measured.machine = measured.machine or record["environment"]
                for level in record["levels"]:
                    figures = RoundFigures.model_validate({key: level[key] for key in RoundFigures.model_fields})
                    measured.rounds.setdefault(name, {}).setdefault(level["concurrency"], []).append(figures)
    return measured


def next_levels(goal: Goal, p99_bound_ms: float | None, loads: Sequence[ServedLoad]) -> tuple[int, ...]:
    """The requests in flight of the next round. loads: the medians so far, empty before the first round."""
    if p99_bound_ms is None or goal == "latency":
        return (CONCURRENCY[goal],)
    if not loads:
        return BOUNDED
    rounds = max(len(load.rounds) for load in loads)
    loads = [load for load in loads if len(load.rounds) == rounds]
    if len(loads) <= 2:
        return tuple(load.concurrency for load in loads)
    allowed = [load for load in loads if load.p99_ms <= p99_bound_ms]
    if not allowed:
        return (min(loads, key=lambda load: load.p99_ms).concurrency,)
    best = max(allowed, key=lambda load: speed(load, goal)).concurrency
    return BOUNDED[max(0, BOUNDED.index(best) - 1) : BOUNDED.index(best) + 1]


def served_load(concurrency: int, rounds: Sequence[RoundFigures]) -> ServedLoad:
    """The medians over the rounds."""
    medians = {name: round(median(getattr(one, name) for one in rounds), 3) for name in RoundFigures.model_fields}
    return ServedLoad(concurrency=concurrency, rounds=tuple(rounds), **medians)


@contextmanager
def _serve(repository: Path, names: Sequence[str], runtime: str, failures: dict[str, str]) -> Iterator[int]:
    """Serve the models that load while the block runs; yield the gRPC port. Adds the others to `failures`.

    Raises the error of the last one if none loads.
    """
    pending = list(names)
    with ExitStack() as stack:
        while True:
            name = pending.pop(0)
            try:
                port = stack.enter_context(serving(repository, "--model", name, "--runtime", runtime))
                break
            except TritonkitError as error:
                failures[name] = _reason(error)
                if not pending:
                    raise
        _load(pending, port, failures)
        yield port


def _load(names: Sequence[str], port: int, failures: dict[str, str]) -> None:
    """Load models, also into a Triton that crashed and is being started again with its first model only.

    Adds those that do not load to `failures`.
    """
    deadline = time.monotonic() + RESTART_S
    for name in names:
        while True:
            try:
                run_command("server", "load", name, "--grpc-port", port)
            except TritonkitError as error:
                if isinstance(error, ExternalError) and time.monotonic() < deadline:
                    time.sleep(1)
                    continue
                failures[name] = _reason(error)
            break


def _reason(error: TritonkitError) -> str:
    """The error of a command on one line, without the path of a log that is deleted with the server."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("The whole log")]
    return " ".join(lines[:3]) if lines else first_line(error)
