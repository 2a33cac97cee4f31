"""`bench run`: measure a served model and write the record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.arguments import typed_arguments
from benchmarks.commands.record_writer import RecordWriter
from benchmarks.load.options import DEFAULT_CONCURRENCY, Arrivals, MlperfScenario
from tritonkit.errors import TritonkitError
from tritonkit.system.console import DEFAULT_URL, JsonOption, exit_with_error, reports_errors

if TYPE_CHECKING:
    from benchmarks.records.record import Record
    from benchmarks.run import OnRecords
    from benchmarks.target import BenchmarkPlan

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A loaded model of the server.")]
ModelVersionArgument = Annotated[
    str, typer.Argument(metavar="MODEL[:VERSION]", help="A loaded model of the server. Default: its newest version.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help=f"HOST:PORT of Triton's gRPC, or http://HOST:PORT. Default: {DEFAULT_URL}, or the only local server."
    ),
]
ConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|A:B|A,B,...",
        help="Closed loop with this many requests in flight: a number, a doubling range, or a list. Default: "
        f"{DEFAULT_CONCURRENCY}, if no other load is given.",
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        metavar="R|A:B|A,B,...",
        help="Open loop with this many requests a second, sent whether or not the server has answered: a number, a "
        "doubling range, or a list.",
    ),
]
ArrivalsOption = Annotated[
    Arrivals | None, typer.Option(help="The send times of --rate. Default: poisson, as independent users send.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        help="Open loop with the times of a file: seconds, one a line; or a log of JSON lines with `time` and perhaps "
        "`request_time`, as nginx can write it."
    ),
]
ScenarioOption = Annotated[
    MlperfScenario | None,
    typer.Option(
        help="A scenario of MLPerf Inference. SingleStream: one request after the other. MultiStream: the same with 8 "
        "images each. Server: find the highest Poisson rate whose p99 is at most --p99-ms. Offline: largest batches "
        "and a full queue."
    ),
]
P99Option = Annotated[float | None, typer.Option(min=0.001, help="The bound of --scenario Server, in milliseconds.")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Of random send times. Default: 0.")]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Images in each request. Default: 1; MultiStream: 8; Offline: the model's maximum."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=64, help="Client processes. Default: one, and more where one is the limit and cores are idle."
    ),
]
SharedMemoryOption = Annotated[
    bool, typer.Option("--shared-memory", help="Send images through shared memory to a server on this machine.")
]
RepositoryOption = Annotated[Path, typer.Option(help="The served model repository.")]
ArtifactOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The served file, called in process to measure the limit. Default: that of the repository.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Threads of the in-process calls; 0: all cores. Default: as in config.pbtxt."),
]
WindowOption = Annotated[float, typer.Option(min=0.1, help="Seconds of one window.")]
MaxWindowsOption = Annotated[
    int | None,
    typer.Option(
        min=3, help="Stop a level after this many windows, even if no three agree. Default: 10; 3 for Server."
    ),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="A folder of images to send; as files to a model that takes encoded images. Default: the golden sample of "
        "the model, or generated values for a model that takes no images.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME:3,224,224", help="Sizes for an input with dynamic sizes; repeatable."),
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL[:VERSION]|HOST:PORT/MODEL|RECORD",
        help="Compare with another model, version or server, measured in turns in the same run, or with a record.",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option(help="The record file. Default: bench-MODEL-TIME.json in this folder; none with --json.")
]


@reports_errors
def run(
    context: typer.Context,
    model: ModelVersionArgument,
    url: UrlOption = None,
    concurrency: ConcurrencyOption = None,
    rate: RateOption = None,
    arrivals: ArrivalsOption = None,
    trace: TraceOption = None,
    scenario: ScenarioOption = None,
    p99_ms: P99Option = None,
    seed: SeedOption = None,
    batch: BatchOption = None,
    repository: RepositoryOption = Path("model_repository"),
    artifact: ArtifactOption = None,
    threads: ThreadsOption = None,
    window_s: WindowOption = 5.0,
    max_windows: MaxWindowsOption = None,
    images: ImagesOption = None,
    shape: ShapeOption = None,
    shared_memory: SharedMemoryOption = False,
    processes: ProcessesOption = None,
    against: AgainstOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a served model under load, and the same artifact called in process.

    The default is a closed loop: a fixed number of requests is in flight. With --rate or --trace it is an open loop:
    requests are sent at their times, and latency counts from the time at which a request should have been sent. Each
    level runs until three windows agree within 10 %, as in perf_analyzer. The record is written after each level; a run
    that is stopped leaves a record marked as incomplete.

    Exit code 1 if some requests failed, if the client could not keep the schedule of an open loop, so that its p99 is
    no valid figure, or if the model is slower than that of --against.

    Examples:

        bench run cats

        bench run cats --concurrency 1,8,32 --output cats.json

        bench run cats --rate 10:80

        bench run cats --scenario Server --p99-ms 100

        bench run cats:4 --against cats:3 --concurrency 1,8

        bench run cats --url http://127.0.0.1:8000 --batch 8 --window-s 2 --json

        bench run third_party_model --shape input:3,224,224
    """
    from benchmarks.against import parse_against, parse_model
    from benchmarks.inputs import parse_shapes
    from benchmarks.load.level import Timing
    from benchmarks.scenarios import scenario_from_options
    from benchmarks.target import BenchmarkPlan
    from tritonkit.remotes import local_path
    from tritonkit.repository.artifact_files import local_artifact
    from tritonkit.system.local_servers import default_url

    name, version = parse_model(model)
    loads = scenario_from_options(
        concurrency=concurrency, rate=rate, arrivals=arrivals, trace=trace, scenario=scenario, p99_ms=p99_ms, seed=seed
    )
    shapes, url = parse_shapes(shape or []), url or default_url()
    plan = BenchmarkPlan(
        model=name,
        version=version,
        url=url,
        scenario=loads,
        shapes=shapes,
        batch=batch,
        repository=repository,
        artifact=None if artifact is None else local_artifact(artifact),
        threads=threads,
        images=None if images is None else local_path(images),
        timing=Timing(
            window_s=window_s,
            max_windows=max_windows or (3 if scenario == "Server" else 10),
            warm_up_s=min(1.0, window_s),
        ),
        shared_memory=shared_memory,
        processes=processes,
        arguments=(*typed_arguments(context, without={"url", "output", "as_json"}), "--url", url),
    )
    other = None if against is None else parse_against(against, plan)
    plans = [plan, other] if isinstance(other, BenchmarkPlan) else [plan]
    if output is None and not as_json:
        output = Path(f"bench-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    old = other if not isinstance(other, BenchmarkPlan) else None
    writer = RecordWriter(output, len(plans), old)
    try:
        writer(_run_with_progress(plans, writer))
    except (KeyboardInterrupt, TritonkitError) as reason:
        if not writer.records:
            if isinstance(reason, KeyboardInterrupt):
                stopped = str(reason) or "stopped by Ctrl-C"
                raise KeyboardInterrupt(f"{stopped}; no level was finished, so there is no record") from reason
            raise
        writer.finish_incomplete(reason, as_json)
    comparison = writer.finish(as_json)
    problems = list(map(problem_of, writer.records))
    if comparison and comparison.slower:
        problems.append(f"{comparison.new} is slower than {comparison.old}: {comparison.slower}")
    if text := "; ".join(filter(None, problems)):
        exit_with_error(text, code=1)


def problem_of(record: Record) -> str | None:
    """Return why the exit code is 1: failed requests, no rate under the bound, a refused p99; None if none applies."""
    if failed := sum(level.errors for level in record.levels):
        return f"{record.name}: {failed} requests failed"
    bound_ms = record.load.p99_bound_ms
    if bound_ms is not None:
        if any(level.meets(bound_ms) for level in record.levels):
            return None
        return f"{record.name}: no rate was found whose p99 is at most {bound_ms:g} ms"
    refused = [level for level in record.levels if level.refused]
    return f"{record.name} at {refused[0].load}: p99 is refused: {refused[0].refused}" if refused else None


def _run_with_progress(plans: Sequence[BenchmarkPlan], on_records: OnRecords) -> Sequence[Record]:
    """Run a benchmark with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.run import phases
    from benchmarks.run import run as measure

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("connecting", total=phases(plans))
        return measure(
            plans, lambda text, finished: progress.update(task, description=text, completed=finished), on_records
        )
