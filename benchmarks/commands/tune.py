"""`bench tune`: find the settings of a served model that are fastest under a latency bound."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks.commands.run import ImagesOption, ModelArgument, ShapeOption, UrlOption
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, duration, print_json, print_text, reports_errors, table
from tritonkit.system.files import check_can_write

if TYPE_CHECKING:
    from benchmarks.tuning.subject import TuningPlan
    from benchmarks.tuning.tune import TuningResult
    from tritonkit.repository.tuning.record import TuningGoal, TuningRecord

P99Option = Annotated[
    float | None, typer.Option("--p99-ms", min=0.01, help="The bound: 99 % of the requests must be faster.")
]
MinutesOption = Annotated[float, typer.Option(min=0.1, help="Measuring time of the whole search.")]
Target = Literal["throughput", "latency"]
TargetOption = Annotated[
    Target,
    typer.Option(
        help="throughput: most images/s at any level of the load that keeps the bound; latency: lowest p50 at one "
        "level."
    ),
]
TuneConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|A:B|A,B,...", help="Closed loop: requests in flight. Default: 1:32 for throughput, 1 for latency."
    ),
]
TuneRateOption = Annotated[
    str | None,
    typer.Option(metavar="R|A:B|A,B,...", help="Open loop instead: requests a second, at Poisson times."),
]
TuneBatchOption = Annotated[
    int, typer.Option(min=1, help="Images in each request; max_batch_size is never set below it.")
]
RepositoryOption = Annotated[Path | None, typer.Option(help="The served model repository. Default: the server's.")]
CoresOption = Annotated[int | None, typer.Option(min=1, help="Cores of the server. Default: those of this machine.")]
TuneOutputOption = Annotated[
    Path | None,
    typer.Option(
        help="The record of the new settings; that of the settings before is FILE-before. Default: "
        "tune-MODEL-TIME.json in this folder; none with --json."
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Measure, but change no file.")]
UndoOption = Annotated[bool, typer.Option("--undo", help="Restore the config.pbtxt before the last `bench tune`.")]


@reports_errors
def tune(
    model: ModelArgument,
    p99_ms: P99Option = None,
    minutes: MinutesOption = 5.0,
    target: TargetOption = "throughput",
    url: UrlOption = None,
    concurrency: TuneConcurrencyOption = None,
    rate: TuneRateOption = None,
    batch: TuneBatchOption = 1,
    images: ImagesOption = None,
    shape: ShapeOption = None,
    repository: RepositoryOption = None,
    cores: CoresOption = None,
    dry_run: DryRunOption = False,
    undo: UndoOption = False,
    output: TuneOutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the settings of a served model that are fastest while p99 stays within a bound, and write them.

    Tried are max_batch_size, the queue delay, instances, threads, preferred batch sizes, and CUDA graphs. First a
    simulation of Triton's dynamic batcher, fed with measured times of batches, ranks all settings; then the best few
    are measured on the server through its load API. The winner is written to config.pbtxt, with the evidence in
    tuning.json. While it runs, the server serves the model with the settings being tried.

    Stopped by Ctrl-C or killed, the same command continues. Exit code 1 if no settings keep the bound.

    Examples:

        bench tune cats --p99-ms 50 --minutes 5

        bench tune cats --p99-ms 20 --minutes 3 --target latency --concurrency 4

        bench tune cats --p99-ms 50 --rate 20,40,60,80

        bench tune cats --p99-ms 50 --dry-run --json

        bench tune cats --undo
    """
    from benchmarks.inputs import parse_shapes
    from benchmarks.tuning.subject import TuningPlan
    from benchmarks.tuning.tune import undo_tuning
    from tritonkit.remotes import local_path
    from tritonkit.system.local_servers import default_url

    url = url or default_url()
    if undo:
        _print_undone(model, undo_tuning(url, model, repository), as_json)
        return
    if output is None and not as_json:
        output = Path(f"tune-{model}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    check_can_write(output)
    plan = TuningPlan(
        model=model,
        url=url,
        goal=_goal(p99_ms, target, concurrency, rate, batch),
        minutes=minutes,
        repository=repository,
        images=None if images is None else local_path(images),
        shapes=parse_shapes(shape or []),
        cores=cores,
        write=not dry_run,
        output=output,
    )
    try:
        result = _tune_with_progress(plan)
    except KeyboardInterrupt as reason:
        message = f"{str(reason) or 'stopped by Ctrl-C'}; the same command continues the search"
        raise KeyboardInterrupt(message) from None
    if as_json:
        print_json(result)
    else:
        print_result(result)


def _print_undone(model: str, record: TuningRecord | None, as_json: bool) -> None:
    if as_json:
        print_json({"undone": record})
    elif record is None:
        print_text(f"{model}: loaded config.pbtxt again; a killed `bench tune` had left trial settings on the server")
    else:
        print_text(f"{model}: restored {record.replaced.words()} in place of {record.winner.words()}, and loaded it")


def _goal(
    p99_ms: float | None,
    target: Target,
    concurrency: str | None,
    rate: str | None,
    batch: int,
) -> TuningGoal:
    """Return the goal that options set. Raises InputError."""
    from benchmarks.load.options import concurrency_levels, rate_levels
    from tritonkit.repository.tuning.record import TuningGoal

    if p99_ms is None:
        raise InputError("--p99-ms is missing: the bound that p99 must keep", code="option.p99_missing")
    if rate is not None and concurrency is not None:
        raise InputError("--concurrency and --rate are different loads; use one of them", code="benchmark.options")
    default = "1:32" if target == "throughput" else "1"
    levels = rate_levels(rate) if rate is not None else concurrency_levels(concurrency or default)
    if target == "latency" and len(levels) > 1:
        raise InputError(
            f"--target latency compares p50 at one level of the load, got {len(levels)}: "
            f"{', '.join(f'{level:g}' for level in levels)}",
            code="option.latency_levels",
        )
    load: Literal["concurrency", "rate"] = "concurrency" if rate is None else "rate"
    return TuningGoal(target=target, p99_ms=p99_ms, load=load, levels=levels, batch=batch)


def _tune_with_progress(plan: TuningPlan) -> TuningResult:
    """Run a search with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.tuning.tune import tune as run_search

    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("connecting", total=1.0)
        return run_search(plan, lambda text, share: progress.update(task, description=text, completed=share))


def print_result(result: TuningResult) -> None:
    """Show the measured settings, the best first, and what was changed."""
    from benchmarks.tuning.prediction import value_of

    goal, rows = result.goal, []
    shown = [
        (trial, result.confirmed.get(trial.settings.words(), trial.best))
        for trial in result.trials
        if trial.best is not None
    ]
    shown.sort(key=lambda row: (not row[0].keeps_bound, -value_of(row[1], goal) if row[1] else 0))
    for trial, best in shown:
        predicted = trial.predicted
        if best is None:
            continue
        marks = ["current"] if trial.settings == result.current.settings else []
        marks += ["winner"] if trial.settings == result.winner else []
        marks += [] if best.p99_ms <= goal.p99_ms else ["above the bound"]
        rows.append(
            [
                trial.settings.words(),
                f"{best.level:g}",
                f"{best.images_per_s:.1f}",
                "" if predicted is None else f"{predicted.images_per_s:.1f}",
                f"{best.p50_ms:.1f}",
                f"{best.p99_ms:.1f}",
                "" if predicted is None else f"{predicted.p99_ms:.1f}",
                ", ".join(marks),
            ]
        )
    table(["settings", goal.load, "images/s", "predicted", "p50 ms", "p99 ms", "predicted", ""], rows)
    for trial in result.trials:
        if trial.failed:
            print_text(f"failed: {trial.settings.words()}: {trial.failed}")
    print_text(
        f"{result.model}: {len(result.trials)} of {result.predicted_settings} settings measured in "
        f"{duration(result.seconds)}, for {goal.target} with p99 within {goal.p99_ms:g} ms"
    )
    print_text(f"winner: {result.winner.words()}: {result.figures.images_per_s:.1f} images/s")
    if result.difference:
        print_text(result.difference)
    print_text(f"written: {result.written}" if result.written else f"nothing written: {result.not_written}")
    for path in result.records:
        print_text(f"record: {path}")
    if result.records_missing:
        print_text(f"no records: {result.records_missing}")
