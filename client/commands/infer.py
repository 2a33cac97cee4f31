"""`client infer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Url
from model.console import DEFAULT_URL, JsonOption, print_json, reports_errors, table
from model.errors import InputError

if TYPE_CHECKING:
    from client.infer import Row
    from client.outputs.wanted import Tally
    from client.picture import Picture
    from model.tasks import Task

MAX_TABLE_ROWS = 100


@reports_errors
def infer(
    paths: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, globs.")],
    model: Annotated[str | None, typer.Option(help="The served model; default: the only one.")] = None,
    version: Annotated[str, typer.Option(help="A version of it; default: the server's choice.")] = "",
    url: Url = DEFAULT_URL,
    source: Annotated[Path | None, typer.Option("--from", help="Answer from a checkpoint or ONNX file.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best answers to tell.")] = 3,
    threshold: Annotated[float | None, typer.Option(help="Probability from which a label holds, or a pixel.")] = None,
    output: Annotated[
        list[Path] | None, typer.Option(help="Write answers: .jsonl, .npy, .parquet; repeatable.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Write class numbers as PNG into this folder.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Write pictures and coloured masks into this folder.")] = None,
    cutouts: Annotated[Path | None, typer.Option(help="Write pictures on another background into this folder.")] = None,
    background: Annotated[
        str | None, typer.Option(help="Of cutouts: colour, #rrggbb or picture; default: white.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Write a contact sheet to this .html file.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a request, up to the model's maximum.")] = 16,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests under way at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Answer pictures; exit 1 when any could not be read."""
    from client.infer import Pace, infer_pictures
    from client.opening import check_threshold, open_runner, task_with
    from client.outputs.drawings import each_in_its_place
    from client.outputs.wanted import Tally, Wanted, opened
    from client.sources import find
    from model.gallery import MAX_TILES

    if source is not None and (model or version):
        raise InputError("--from answers in this process; --model and --version are for a server")
    check_threshold(threshold)
    outputs = output or []
    wanted = Wanted.checked(
        outputs, gallery, {"mask": masks, "overlay": overlays, "cutout": cutouts}, background, paths
    )
    found = find(paths)
    shown = set[str]()
    tally = Tally(None if as_json else MAX_TABLE_ROWS)
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(open_runner(source, url, model, version))
        task = task_with(runner, threshold)
        finish, write = stack.enter_context(opened(wanted, runner, task, shown))
        pace = Pace(batch=min(batch, runner.max_batch or batch), in_flight=in_flight)
        pictures = _noted(each_in_its_place(found.pictures), shown, MAX_TILES if gallery else 0)
        for row in _with_progress(infer_pictures(runner, task, pictures, top, pace, finish), found.total):
            write(row)
            tally.write(row)
    if as_json:
        rows = [row.as_json() for row in tally.rows]
        print_json({"answered": tally.answered, "failed": tally.failed, "rows": rows})
    else:
        _print_table(tally, task, outputs)
        typer.echo(f"{tally.answered} answered, {tally.failed} failed, by {runner.origin}")
    if tally.failed:
        raise typer.Exit(1)


def _noted(pictures: Iterable[Picture], shown: set[str], most: int) -> Iterator[Picture]:
    """The pictures; the names of the first so many are noted as they are taken."""
    coming = iter(pictures)
    for picture in islice(coming, most):
        shown.add(picture.name)
        yield picture
    yield from coming


def _with_progress(rows: Iterator[Row], total: int | None) -> Iterator[Row]:
    from rich.console import Console
    from rich.progress import track

    return iter(track(rows, "answering", total=total, console=Console(stderr=True), transient=True))


def _print_table(tally: Tally, task: Task, outputs: Sequence[Path]) -> None:
    shown = [[f"error: {row.error}"] if row.answer is None else task.cells(row.answer.told) for row in tally.rows]
    ranks = max(map(len, shown), default=1)
    cells = [[row.name, *answer, *[""] * (ranks - len(answer))] for row, answer in zip(tally.rows, shown, strict=True)]
    table(["picture", "answer", *[""] * (ranks - 1)], cells)
    if more := tally.answered + tally.failed - len(tally.rows):
        whole = next((path for path in outputs if path.suffix != ".npy"), None)
        where = f"all are in {whole}" if whole else "--output FILE.jsonl writes all"
        typer.echo(f"… and {more} more; {where}")
