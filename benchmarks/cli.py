"""The `bench` command."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.console import DEFAULT_URL, JsonOption, application, exit_code, fail, print_json, reports_errors, say
from model.errors import TritonkitError

if TYPE_CHECKING:
    from benchmarks.record import Record
    from benchmarks.run import Keep, Plan

app = application("Measure a running model: records of what it does, reports that show them.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model the server has loaded.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help=f"HOST:PORT of Triton's gRPC, or http://HOST:PORT. Else {DEFAULT_URL}, or the one server that runs here."
    ),
]
ConcurrencyOption = Annotated[
    str, typer.Option(metavar="N|A:B|A,B,...", help="Requests in flight: one number, a doubling range, or a list.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Images in one request.")]
RepositoryOption = Annotated[Path, typer.Option(help="The model repository that is served.")]
ArtifactOption = Annotated[
    Path | None,
    typer.Option(help="The served file, to call in process for the limit. Else the repository's model.onnx."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Threads of the in-process calls; 0 is all cores. Else as the server's config says."),
]
WindowOption = Annotated[float, typer.Option(min=0.1, help="Seconds in one window.")]
MaxWindowsOption = Annotated[int, typer.Option(min=3, help="Give up waiting for three that agree after so many.")]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder of pictures to send, as files to a model that takes those. Else the model's golden sample, or "
        "generated values to a model that takes no pictures."
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME:3,224,224", help="Sizes to generate of an input that leaves them free; repeatable."
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option(help="Where to write the record. Else bench-MODEL-TIME.json here; none with --json.")
]
RecordsArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Records that `bench run` wrote.")]
HtmlOption = Annotated[Path | None, typer.Option(help="Write one page that works offline, instead of tables.")]


@app.command("run")
@reports_errors
def run_command(
    model: ModelArgument,
    url: UrlOption = None,
    concurrency: ConcurrencyOption = "1:64",
    batch: BatchOption = 1,
    repository: RepositoryOption = Path("model_repository"),
    artifact: ArtifactOption = None,
    threads: ThreadsOption = None,
    window_s: WindowOption = 5.0,
    max_windows: MaxWindowsOption = 10,
    images: ImagesOption = None,
    shape: ShapeOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a served model under closed-loop load, beside the same artifact called in process.

    Each level runs until three windows agree within 10 %, counted as perf_analyzer counts. The record is written after
    each level, so that one that is stopped keeps what it has, marked as incomplete. Exit code 1 when some requests
    failed.

    Examples:

        bench run cats

        bench run cats --concurrency 1,8,32 --output cats.json

        bench run cats --url http://127.0.0.1:8000 --batch 8 --window-s 2 --json

        bench run someone_elses --shape input:3,224,224
    """
    from benchmarks.inputs import shapes_from
    from benchmarks.load import Timing, concurrency_levels
    from benchmarks.run import Plan
    from model.local_servers import url_without_option

    url = url or url_without_option()
    levels, shapes = concurrency_levels(concurrency), shapes_from(shape or [])
    timing = Timing(window_s=window_s, max_windows=max_windows)
    plan = Plan(model, url, levels, batch, repository, artifact, threads, images, timing, shapes)
    if output is None and not as_json:
        output = Path(f"bench-{model}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    kept = _Kept(output)
    try:
        kept.record = _watched(plan, kept)
    except (KeyboardInterrupt, TritonkitError) as reason:
        if kept.record is None:
            raise
        kept.end_early(reason, as_json)
    kept.end(kept.record, as_json)
    failed = sum(level.errors for level in kept.record.levels)
    if failed:
        fail(f"{failed} requests failed", code=1)


@app.command("report")
@reports_errors
def report_command(records: RecordsArgument, html: HtmlOption = None, as_json: JsonOption = False) -> None:
    """Show records, on the terminal or as one self-contained page; several are laid over each other.

    Examples:

        bench report bench-cats-*.json

        bench report before.json after.json --html report.html
    """
    from benchmarks.record import read_record

    read = [read_record(path) for path in records]
    if html is not None:
        from benchmarks.report import write_report

        write_report(html, read)
    if as_json:
        print_json({"records": [record.model_dump(mode="json") for record in read], "html": html})
    elif html is not None:
        say(f"report: {html}")
    else:
        from benchmarks.table import print_record

        for record in read:
            print_record(record)


class _Kept:
    """The record so far; it is written to a file where one is named."""

    def __init__(self, path: Path | None) -> None:
        """Check that the file can be written. Raises what `check_place` raises."""
        from benchmarks.record import check_place

        if path is not None:
            check_place(path)
        self.path = path
        self.record: Record | None = None

    def __call__(self, record: Record) -> None:
        """Keep the record of the levels so far; a disk that is full now may not be at the end."""
        from benchmarks.record import write_record

        self.record = record
        if self.path is not None:
            with suppress(TritonkitError):
                write_record(self.path, record)

    def end_early(self, reason: BaseException, as_json: bool) -> None:
        """Show and write the incomplete record with the reason, and exit with the reason's code."""
        said = str(reason) or "stopped by the keyboard"
        if self.record is not None:
            self.end(self.record.model_copy(update={"incomplete": said}), as_json)
        fail(said, code=exit_code(reason))

    def end(self, record: Record, as_json: bool) -> None:
        """Show the last record, then write it; leave with an error where it cannot be written."""
        from benchmarks.record import write_record
        from benchmarks.table import print_record

        try:
            if as_json:
                print_json(record)
            else:
                print_record(record)
        finally:
            try:
                if self.path is not None:
                    write_record(self.path, record)
            except TritonkitError as error:
                fail(str(error), code=exit_code(error))
        if not as_json:
            say(f"record: {self.path}")


def _watched(plan: Plan, keep: Keep) -> Record:
    """Run a plan with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.run import run

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("connecting", total=plan.phases)
        return run(plan, lambda text, done: progress.update(task, description=text, completed=done), keep)
