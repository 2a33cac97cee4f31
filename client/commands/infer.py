"""`client infer`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import connects, is_said
from model.console import JsonOption, print_json, reports_errors, say, table, track_progress, warn
from model.errors import InputError

if TYPE_CHECKING:
    from client.outputs.wanted import Tally
    from model.connection import Connection
    from model.tasks import Task

MAX_TABLE_ROWS = 100
WHAT_IS_TAKEN = "Pictures, folders, globs, addresses, zip, tar, videos, CSVs; - for a list on standard input."


@reports_errors
@connects(many=True)
def infer(
    paths: Annotated[list[str], typer.Argument(help=WHAT_IS_TAKEN)],
    connection: Connection,
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="The served model; default: the only one.")] = None,
    version: Annotated[str, typer.Option(help="A version of it; default: the server's choice.")] = "",
    source: Annotated[Path | None, typer.Option("--from", help="Answer from a checkpoint or ONNX file.")] = None,
    column: Annotated[str | None, typer.Option(help="The column of a CSV that names pictures.")] = None,
    null: Annotated[bool, typer.Option("--null", help="The list on standard input ends its entries with NUL.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Of a video's frames, take each so many-th.")] = 25,
    top: Annotated[int, typer.Option(min=1, help="How many of the best answers to tell.")] = 3,
    threshold: Annotated[float | None, typer.Option(help="Probability from which a label holds, or a pixel.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Show only answers with this label; repeatable.")
    ] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Show only answers that are this probable.")
    ] = None,
    tta: Annotated[str | None, typer.Option(help="Answer several views of each picture: flip, flips.")] = None,
    output: Annotated[
        list[Path] | None, typer.Option(help="Write or continue answers: .jsonl, .csv, .parquet, .npy; repeatable.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Write class numbers as PNG into this folder.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Write pictures and coloured masks into this folder.")] = None,
    cutouts: Annotated[Path | None, typer.Option(help="Write pictures on another background into this folder.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Of cutouts: colour, #rrggbb or picture; default: white.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over, whatever --output holds.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Answer again what got no answer before, as --output says.")
    ] = False,
    gallery: Annotated[Path | None, typer.Option(help="Write a contact sheet to this .html file.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a request, up to the model's maximum.")] = 16,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Requests under way at once; default: what the server can take."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer pictures; exit 1 when any could not be read."""
    from client.filters import Filter, filtered
    from client.infer import InferenceSettings, infer_pictures
    from client.opening import check_threshold, open_runner, task_with
    from client.outputs.terms import terms_of
    from client.outputs.wanted import OutputConfig, Tally, opened
    from client.pace import AdaptiveConcurrency
    from client.sources import fetched_ahead, find
    from model.runners.augmented import augmented

    if source is not None and (model or version):
        raise InputError("--from answers in this process; --model and --version are for a server")
    _check_video(context, paths, every)
    check_threshold(threshold)
    outputs = output or []
    folders = {"mask": masks, "overlay": overlays, "cutout": cutouts}
    wanted = OutputConfig.checked(outputs, gallery, folders, background, paths, overwrite, retry_failed)
    found = find(paths, column=column, null=null, every=every)
    tally = Tally(None if as_json else MAX_TABLE_ROWS)
    with contextlib.ExitStack() as stack:
        requests = AdaptiveConcurrency(in_flight)
        runner = stack.enter_context(open_runner(source, connection, model, version, requests.failed, bool(outputs)))
        task = task_with(runner, threshold)
        chosen = Filter.checked(runner.spec, classes or (), min_probability)
        terms = terms_of(runner, source, top, threshold, tta, classes or (), min_probability)
        runner = augmented(runner, tta)
        writing = stack.enter_context(opened(wanted, runner, task, terms, warn))
        pace = InferenceSettings(batch=min(batch, runner.max_batch or batch), in_flight=requests)
        finish = filtered(writing.finish, chosen)
        rows = infer_pictures(runner, task, fetched_ahead(writing.missing(found.pictures)), top, pace, finish)
        for row in track_progress(rows, "answering", writing.left(found.total)):
            writing.write(row)
            tally.write(row)
    if as_json:
        print_json(writing.document(tally, found.skipped))
    else:
        _print_table(tally, task, outputs)
        say(writing.summary(tally, runner.origin, terms.version))
    if skipped := found.skipped.sentence():
        warn(skipped)
    if tally.failed or writing.earlier_failed:
        raise typer.Exit(1)


def _check_video(context: typer.Context, paths: Sequence[str], every: int) -> None:
    from client.sources.named import may_hold_video

    if is_said(context, "every") and not may_hold_video(paths):
        raise InputError(f"--every {every}: is for videos, and none is given")


def _print_table(tally: Tally, task: Task, outputs: Sequence[Path]) -> None:
    shown = {row.name: task.cells(row.answer.fields) for row in tally.rows if row.answer is not None}
    ranks = max(map(len, shown.values()), default=1)
    if shown:
        cells = [[name, *answer, *[""] * (ranks - len(answer))] for name, answer in shown.items()]
        table(["picture", "answer", *[""] * (ranks - 1)], cells)
    if failed := [[row.name, row.error or ""] for row in tally.rows if row.answer is None]:
        table(["picture", "error"], failed)  # in a table of its own: a reason is wider than an answer
    if more := tally.answered + tally.failed - tally.left_out - len(tally.rows):
        whole = next((path for path in outputs if path.suffix != ".npy"), None)
        where = f"all are in {whole}" if whole else "--output FILE.jsonl writes all"
        say(f"… and {more} more; {where}")
