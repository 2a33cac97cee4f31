"""`bench run`: measure a served model and write the record."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.errors import TritonkitError
from tritonkit.system.console import (
    DEFAULT_URL,
    JsonOption,
    exit_code,
    exit_with_error,
    print_json,
    print_text,
    reports_errors,
)

if TYPE_CHECKING:
    from benchmarks.records.record import Record
    from benchmarks.run import BenchmarkPlan, OnRecord

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A loaded model of the server.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help=f"HOST:PORT of Triton's gRPC, or http://HOST:PORT. Default: {DEFAULT_URL}, or the only local server."
    ),
]
ConcurrencyOption = Annotated[
    str, typer.Option(metavar="N|A:B|A,B,...", help="Requests in flight: a number, a doubling range, or a list.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Images in each request.")]
RepositoryOption = Annotated[Path, typer.Option(help="The served model repository.")]
ArtifactOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="The served file, called in process to measure the limit. Default: model.onnx of the repository.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Threads of the in-process calls; 0: all cores. Default: as in config.pbtxt."),
]
WindowOption = Annotated[float, typer.Option(min=0.1, help="Seconds of one window.")]
MaxWindowsOption = Annotated[
    int, typer.Option(min=3, help="Stop a level after this many windows, even if no three agree.")
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
OutputOption = Annotated[
    Path | None, typer.Option(help="The record file. Default: bench-MODEL-TIME.json in this folder; none with --json.")
]


@reports_errors
def run(
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
    """Measure a served model under closed-loop load, and the same artifact called in process.

    Each level runs until three windows agree within 10 %, as in perf_analyzer. The record is written after each level;
    a run that is stopped leaves a record marked as incomplete. Exit code 1 if some requests failed.

    Examples:

        bench run cats

        bench run cats --concurrency 1,8,32 --output cats.json

        bench run cats --url http://127.0.0.1:8000 --batch 8 --window-s 2 --json

        bench run third_party_model --shape input:3,224,224
    """
    from benchmarks.inputs import parse_shapes
    from benchmarks.load.level import Timing, concurrency_levels
    from benchmarks.run import BenchmarkPlan
    from tritonkit.remotes import local_path
    from tritonkit.repository.artifact_files import local_artifact
    from tritonkit.system.local_servers import default_url

    url = url or default_url()
    levels, shapes = concurrency_levels(concurrency), parse_shapes(shape or [])
    timing = Timing(window_s=window_s, max_windows=max_windows)
    plan = BenchmarkPlan(
        model,
        url,
        levels,
        batch,
        repository,
        None if artifact is None else local_artifact(artifact),
        threads,
        None if images is None else local_path(images),
        timing,
        shapes,
    )
    if output is None and not as_json:
        output = Path(f"bench-{model}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    writer = _RecordWriter(output)
    try:
        writer.record = _run_with_progress(plan, writer)
    except (KeyboardInterrupt, TritonkitError) as reason:
        if writer.record is None:
            raise
        writer.finish_incomplete(reason, as_json)
    writer.finish(writer.record, as_json)
    failed = sum(level.errors for level in writer.record.levels)
    if failed:
        exit_with_error(f"{failed} requests failed", code=1)


class _RecordWriter:
    """Keeps the latest record, and writes it to a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        """Check that the file can be written. Raises what `check_writable` raises."""
        from benchmarks.records.record import check_writable

        if path is not None:
            check_writable(path)
        self.path = path
        self.record: Record | None = None

    def __call__(self, record: Record) -> None:
        """Keep and write the record so far; a write error is ignored, because the final write may succeed."""
        from benchmarks.records.record import write_record

        self.record = record
        if self.path is not None:
            with suppress(TritonkitError):
                write_record(self.path, record)

    def finish_incomplete(self, reason: BaseException, as_json: bool) -> None:
        """Show and write the incomplete record with the reason, and exit with the exit code of the reason."""
        message = str(reason) or "stopped by Ctrl-C"
        if self.record is not None:
            self.finish(self.record.model_copy(update={"incomplete": message}), as_json)
        exit_with_error(message, code=exit_code(reason))

    def finish(self, record: Record, as_json: bool) -> None:
        """Show and write the final record; exit with an error if it cannot be written."""
        from benchmarks.records.record import write_record
        from benchmarks.report.table import print_record

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
                exit_with_error(str(error), code=exit_code(error))
        if not as_json:
            print_text(f"record: {self.path}")


def _run_with_progress(plan: BenchmarkPlan, on_record: OnRecord) -> Record:
    """Run a benchmark with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.run import run as measure

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("connecting", total=plan.phases)
        return measure(
            plan, lambda text, finished: progress.update(task, description=text, completed=finished), on_record
        )
