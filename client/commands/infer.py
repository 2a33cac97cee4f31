"""`client infer`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import InferConnectionOptions, typed_options
from tritonkit.errors import InputError
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table, track_progress, warn

if TYPE_CHECKING:
    from client.outputs.output_config import Tally
    from tritonkit.tasks import Task

MAX_TABLE_ROWS = 100
PATHS_HELP = "Images, folders, globs, addresses, zip, tar, videos, CSVs; - for a list on standard input."


@reports_errors
@options_of(InferConnectionOptions)
def infer(
    options: InferConnectionOptions,
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help=PATHS_HELP)],
    model: Annotated[str | None, typer.Option(help="The served model; default: the server's only model.")] = None,
    version: Annotated[str, typer.Option(help="Version of the model; default: the server's choice.")] = "",
    source: Annotated[
        str | None, typer.Option("--from", metavar="PATH", help="Use this checkpoint or ONNX file, not a server.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The CSV column with paths or addresses of images.")] = None,
    null: Annotated[bool, typer.Option("--null", help="The list on standard input is separated by NUL.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Use every Nth video frame.")] = 25,
    top: Annotated[int, typer.Option(min=1, help="Number of best labels in an answer.")] = 3,
    threshold: Annotated[float | None, typer.Option(help="Minimum probability of a label or a mask pixel.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Show only answers with this label; repeatable.")
    ] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Show only answers with at least this probability.")
    ] = None,
    tta: Annotated[
        str | None, typer.Option(help="Average the answers to several views of each image: flip, flips.")
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(help="Write answers, or continue a file: .jsonl, .csv, .parquet, .npy; repeatable."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Write masks with class numbers as PNG files to this folder.")
    ] = None,
    overlays: Annotated[Path | None, typer.Option(help="Write images with coloured masks to this folder.")] = None,
    cutouts: Annotated[Path | None, typer.Option(help="Write images on another background to this folder.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Background of cutouts: colour, #rrggbb or image file; default: white.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over and replace the --output files.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the images that have an error in the --output files.")
    ] = False,
    gallery: Annotated[Path | None, typer.Option(help="Write a contact sheet to this .html file.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a request, up to the model's maximum.")] = 16,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Concurrent requests; default: adapted to the server."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer images; exit 1 if any image has no answer."""
    from client.concurrency import AdaptiveConcurrency
    from client.infer import InferenceSettings, infer_pictures
    from client.model_loading import check_threshold, open_runner, task_with_threshold
    from client.outputs.filters import Filter, with_filter
    from client.outputs.job import job_settings_of
    from client.outputs.output_config import OutputConfig, Tally, open_outputs
    from client.sources import find_pictures, prefetch_content
    from client.sources.argument_files import may_contain_video
    from tritonkit.repository.artifact_files import local_artifact
    from tritonkit.runtimes.augmented import with_augmentation

    if source is not None and (model or version):
        raise InputError(
            "--from answers in this process; --model and --version select a model of a server", code="option.from_model"
        )
    if source is not None and (flags := typed_options(context, InferConnectionOptions.model_fields)):
        raise InputError(
            f"--from answers in this process, without a server; omit {', '.join(flags)}", code="option.from_server"
        )
    if typed_options(context, ["every"]) and not may_contain_video(paths):
        raise InputError(f"--every {every}: applies to videos, and the paths contain none", code="option.every_unused")
    check_threshold(threshold)
    outputs = output or []
    folders = {"mask": masks, "overlay": overlays, "cutout": cutouts}
    output_config = OutputConfig.from_options(outputs, gallery, folders, background, paths, overwrite, retry_failed)
    stream = find_pictures(paths, column=column, null=null, frame_step=every)
    tally = Tally(None if as_json else MAX_TABLE_ROWS)
    url = options.connection(context) if source is None else ""
    artifact = None if source is None else local_artifact(source)
    with contextlib.ExitStack() as stack:
        concurrency = AdaptiveConcurrency(in_flight)
        runner = stack.enter_context(
            open_runner(artifact, url, model, version, concurrency.record_failure, bool(outputs), pipelines=True)
        )
        task = task_with_threshold(runner, threshold)
        answer_filter = Filter.from_options(runner.spec, classes or (), min_probability)
        job_settings = job_settings_of(runner, artifact, top, threshold, tta, classes or (), min_probability)
        runner = with_augmentation(runner, tta)
        writer = stack.enter_context(open_outputs(output_config, runner, task, job_settings, warn))
        inference_settings = InferenceSettings(batch=min(batch, runner.max_batch or batch), in_flight=concurrency)
        finish = with_filter(writer.finish, answer_filter)
        rows = infer_pictures(
            runner, task, prefetch_content(writer.unanswered(stream.pictures)), top, inference_settings, finish
        )
        for row in track_progress(rows, "answering", writer.remaining(stream.total)):
            writer.write(row)
            tally.write(row)
    if as_json:
        print_json(writer.document(tally, stream.skipped))
    else:
        _print_table(tally, task, outputs)
        print_text(writer.summary(tally, runner.origin, job_settings.version))
    if skipped := stream.skipped.sentence():
        warn(skipped)
    if tally.failed or writer.earlier_failed:
        raise typer.Exit(1)


def _print_table(tally: Tally, task: Task, outputs: Sequence[Path]) -> None:
    cells_by_name = {row.name: task.cells(row.answer.fields) for row in tally.rows if row.answer is not None}
    columns = max(map(len, cells_by_name.values()), default=1)
    if cells_by_name:
        cells = [[name, *answer, *[""] * (columns - len(answer))] for name, answer in cells_by_name.items()]
        table(["image", "answer", *[""] * (columns - 1)], cells)
    if failed := [[row.name, row.error or ""] for row in tally.rows if row.answer is None]:
        table(["image", "error"], failed)  # a separate table, because errors are wider than answers
    if not_shown := tally.answered + tally.failed - tally.filtered_out - len(tally.rows):
        complete = next((path for path in outputs if path.suffix != ".npy"), None)
        hint = f"all are in {complete}" if complete else "--output FILE.jsonl writes all"
        print_text(f"… and {not_shown} more; {hint}")
