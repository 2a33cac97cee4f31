"""Measure how near `bench tune` comes to an exhaustive search, for two models and two bounds each.

One Triton from the pip wheel serves networks with random weights. A grid measures every combination of instances,
threads, largest batch and queue delay at six levels of concurrency, so one grid answers for all bounds. `bench tune`
then searches its own, larger space, with a share of the grid's measuring time. The best settings of the grid are
measured again in turns, because one short measurement flatters some; then the best of these and the choice of
`bench tune` in turns, because a figure that was selected flatters too.

The grid's measurements are kept in a file, so an interrupted study continues.

Exits with 1 if a choice of `bench tune` reaches less than 95 % of the exhaustive best, or took more than its share.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.progress import track

from benchmarks.environment import usable_cores
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.scenarios import Scenario
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import LocalTriton, publish_network, serve, tiny_network
from benchmarks.studies.study import Result, command, in_turns, write_json
from benchmarks.target import BenchmarkPlan, connect
from benchmarks.tuning.served import TrialServer, config_from_json
from benchmarks.tuning.space import cpu_workers
from benchmarks.tuning.subject import TuningPlan
from benchmarks.tuning.tune import tune
from tritonkit.errors import CheckFailedError, TritonkitError
from tritonkit.repository.tuning.record import Figures, TuningGoal
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection

MODELS = {"resnet18": {"onnx": "fp32"}, "mobilenetv2_100": {"openvino": "fp32"}}
"""timm architectures, and what they are exported as: the two backends batch in different ways."""
MAX_BATCH = 32
BATCHES, DELAYS_US = (1, 4, 8, 16, 32), (0, 1000, 5000)
LEVELS = (1, 2, 4, 8, 16, 32)
BOUNDS = (3.0, 10.0)
"""Bounds, as multiples of the lowest p99 of one request in flight."""
NEEDED, SHARE = 0.95, 0.15
BOUND_TOLERANCE = 1.05
"""Largest ratio of a repeated median to the bound."""
COMPARED = 5
"""Settings of the grid that are measured again."""
AGAIN_ROUNDS = 2
AGAIN = 2.0
"""Duration of a level that is measured again, as a multiple of that in the grid."""


class GridMeasurement(NamedTuple):
    """One configuration of the grid."""

    settings: ServingSettings
    levels: list[Figures]
    seconds: float


class GridChoice(NamedTuple):
    """Settings, and the level at which they count."""

    settings: ServingSettings
    level: int


def measure(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the comparison of tuned and exhaustive best.")] = 5,
    window_s: Annotated[float, typer.Option(help="Duration of a level; its warm-up takes a quarter more.")] = 1.0,
    progress: Annotated[Path, typer.Option(help="Where the grid's measurements are kept.")] = Path(
        ".cache/tune_hit_rate.json"
    ),
    tiny: Annotated[bool, typer.Option(help="Try the study itself: a tiny network, a grid of four.")] = False,
) -> Result:
    """Measure the grids, tune, and compare."""
    models: Mapping[str, Mapping[str, str]] = {"tiny": {"onnx": "fp32"}} if tiny else MODELS
    results: dict[str, Any] = {}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        for name, target in models.items():
            network = tiny_network() if tiny else calibrated_network(name)
            publish_network(network, repository, name, MAX_BATCH, **target, encoded=False, force=True, repair=False)
        with serve(repository) as triton:
            for name, target in models.items():
                with trial_server(triton, name) as server:
                    grid = measured_grid(server, name, grid_settings(tiny), window_s, progress)
                seconds = sum(entry.seconds for entry in grid)
                lowest = min(entry.levels[0].p99_ms for entry in grid if entry.levels)
                results[name] = {"exported": dict(target), "settings": len(grid), "seconds": round(seconds, 1)}
                for multiple in BOUNDS:
                    goal = TuningGoal(
                        target="throughput", p99_ms=float(f"{multiple * lowest:.2g}"), levels=LEVELS, batch=1
                    )
                    found = compare(triton, name, grid, seconds, goal, rounds, window_s)
                    results[name][f"p99 within {goal.p99_ms:g} ms"] = found
                    words = f"{name}, p99 within {goal.p99_ms:g} ms: tuned {found['tuned']['images_per_s']} images/s"
                    checks[f"{words} is at least {NEEDED:.0%} of {found['best'].get('images_per_s')}"] = (
                        found["ratio"] >= NEEDED
                    )
                    checks[f"{words} in at most {SHARE:.0%} of the grid's time"] = found["time_share"] <= SHARE
    return Result({"window_s": window_s, "rounds": rounds, "levels": LEVELS, "models": results}, checks)


def grid_settings(tiny: bool) -> list[ServingSettings]:
    """Return the settings of the grid, each once: a delay has no effect on batches of one."""
    workers = cpu_workers(usable_cores(), takes_threads=True)
    combinations = product(workers[:2], (1, 8), (0,)) if tiny else product(workers, BATCHES, DELAYS_US)
    return list(
        dict.fromkeys(
            ServingSettings(
                max_batch=batch,
                instances=used.instances,
                threads=used.threads,
                delay_us=delay_us if batch > 1 else 0,
            )
            for used, batch, delay_us in combinations
        )
    )


@contextmanager
def trial_server(triton: LocalTriton, model: str) -> Iterator[TrialServer]:
    """Load settings into a model for as long as the block runs."""
    url = triton.options.grpc_url
    with TritonClient(Connection(url=url, deadline_s=120), tokens=triton.server.tokens) as control:
        plan = BenchmarkPlan(
            model=model, url=url, scenario=Scenario("closed", (ClosedLoop(1),)), repository=triton.options.repository
        )
        target = connect(plan, client=control)
        original = config_from_json(control.config(model))
        current = ServingSettings.from_config(original)
        with TrialServer(control, original, current, target.runner, target.batches) as server:
            yield server


def measured_grid(
    server: TrialServer, model: str, grid: Sequence[ServingSettings], window_s: float, path: Path
) -> list[GridMeasurement]:
    """Measure what the file does not have yet. Settings that fail have no levels."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known: dict[str, Any] = document.setdefault(f"{model}, {window_s:g} s", {})
    for settings in track([entry for entry in grid if entry.words() not in known], f"grid of {model}"):
        started, levels = time.monotonic(), []
        try:
            server.load(settings)
            levels = [server.measure(ClosedLoop(level), 1, window_s).figures for level in LEVELS]
        except TritonkitError as error:
            print(f"{settings.words()}: {error}", flush=True)
        known[settings.words()] = {
            "settings": settings.model_dump(),
            "levels": [figures.model_dump() for figures in levels],
            "seconds": time.monotonic() - started,
        }
        write_json(path, document)
    return [
        GridMeasurement(
            ServingSettings.model_validate(entry["settings"]),
            [Figures.model_validate(figures) for figures in entry["levels"]],
            entry["seconds"],
        )
        for entry in (known[settings.words()] for settings in grid)
    ]


def compare(
    triton: LocalTriton,
    model: str,
    grid: Sequence[GridMeasurement],
    grid_s: float,
    goal: TuningGoal,
    rounds: int,
    window_s: float,
) -> dict[str, Any]:
    """Tune for a bound, and measure the choice and the grid's best in turns."""
    started = time.monotonic()
    minutes = 0.97 * SHARE * grid_s / 60  # a level that began in time may end later
    plan = TuningPlan(model, triton.options.grpc_url, goal, minutes, triton.options.repository, write=False)
    try:
        tuned = tune(plan, lambda text, share: None)
    except CheckFailedError as error:
        return {"tuned": {"failed": str(error), "images_per_s": 0.0}, "best": {}, "ratio": 0.0, "time_share": SHARE}
    tuning_s = time.monotonic() - started
    choice = GridChoice(tuned.winner, int(tuned.figures.level))
    best = grid_best(grid, goal)
    with trial_server(triton, model) as server:

        def measured(settings: ServingSettings, levels: Sequence[int]) -> list[Figures]:
            server.load(settings)
            return [server.measure(ClosedLoop(level), 1, AGAIN * window_s).figures for level in levels]

        def measured_again(choices: Sequence[GridChoice], rounds: int) -> dict[str, dict[str, float]]:
            """Measure all at each level that counted for one of them, and at its neighbours."""
            levels = [level for level in LEVELS if any(one.level <= 2 * level <= 4 * one.level for one in choices)]
            methods = {one.settings.words(): partial(measured, one.settings, levels) for one in choices}
            return {name: summarized(values, goal) for name, values in in_turns(methods, rounds).items()}

        again = measured_again(best, AGAIN_ROUNDS)
        exhaustive = max(best, key=lambda one: again[one.settings.words()]["images_per_s"])
        last = measured_again([choice, exhaustive], rounds)
    tuned_words, best_words = choice.settings.words(), exhaustive.settings.words()
    most = last[best_words]["images_per_s"]
    ratio = last[tuned_words]["images_per_s"] / most if most else 0.0
    return {
        "tuned": {"settings": tuned_words, **last[tuned_words]},
        "best": {"settings": best_words, **last[best_words]},
        "ratio": round(ratio, 3),
        "time_share": round(tuned.seconds / grid_s, 3),
        "tuning_s": round(tuning_s, 1),
        "trials": len(tuned.trials),
        "settings_ranked": tuned.predicted_settings,
        "before": {"settings": tuned.current.settings.words(), "images_per_s": rounded(tuned.current.best)},
        "measured_again": again,
    }


def grid_best(grid: Sequence[GridMeasurement], goal: TuningGoal) -> list[GridChoice]:
    """Return the grid's best settings under a bound, each with its best level."""
    ranked: list[tuple[float, GridChoice]] = []
    for entry in grid:
        kept = [figures for figures in entry.levels if figures.is_sound and figures.p99_ms <= goal.p99_ms]
        if kept:
            figures = max(kept, key=lambda figures: figures.images_per_s)
            ranked.append((-figures.images_per_s, GridChoice(entry.settings, int(figures.level))))
    ranked.sort(key=lambda pair: pair[0])
    return [choice for _, choice in ranked[:COMPARED]]


def summarized(rounds: Sequence[Sequence[Figures]], goal: TuningGoal) -> dict[str, float]:
    """Return the medians at the best level that keeps the bound; no throughput if none does."""
    medians = [
        {
            "concurrency": values[0].level,
            "images_per_s": round(statistics.median(figures.images_per_s for figures in values), 1),
            "p99_ms": round(statistics.median(figures.p99_ms for figures in values), 1),
        }
        for values in zip(*rounds, strict=True)
    ]
    kept = [level for level in medians if level["p99_ms"] <= goal.p99_ms * BOUND_TOLERANCE]
    return max(kept, key=lambda level: level["images_per_s"], default={**medians[0], "images_per_s": 0.0})


def rounded(figures: Figures | None) -> float | None:
    """Return the throughput; None without figures."""
    return None if figures is None else round(figures.images_per_s, 1)


if __name__ == "__main__":
    command(measure)()
