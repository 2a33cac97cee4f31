"""The `client` command."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.console import DEFAULT_URL, JsonOption, application, print_json, reports_errors, table
from model.errors import InputError

if TYPE_CHECKING:
    from client.infer import Row
    from model.runners import Runner
    from model.runners.triton import TritonServer

MAX_TABLE_ROWS = 100

app = application("Ask a served model, or any artifact, about pictures.")

Url = Annotated[str, typer.Option(help="HOST:PORT of Triton's gRPC port, or http://HOST:PORT.")]


@app.callback()
def client() -> None:
    """Ask a served model, or any artifact, about pictures.

    Examples:

    * client infer photos/ --model imagenet

    * client infer 'photos/**/*.jpg' cat.png --model imagenet --top 5 --output answers.jsonl --gallery sheet.html

    * client infer photos/ --from runs/digits/1/best.safetensors

    * client models
    """


@app.command()
@reports_errors
def infer(
    paths: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, globs.")],
    model: Annotated[str | None, typer.Option(help="The served model; default: the only one.")] = None,
    version: Annotated[str, typer.Option(help="A version of it; default: the server's choice.")] = "",
    url: Url = DEFAULT_URL,
    source: Annotated[Path | None, typer.Option("--from", help="Answer from a checkpoint or ONNX file.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best answers to tell.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Write the answers to this .jsonl file.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Write a contact sheet to this .html file.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a request, up to the model's maximum.")] = 16,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests under way at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Answer pictures; exit 1 when any could not be read."""
    from client.infer import Pace, infer_files
    from client.inputs import find_images
    from model.files import check_can_write

    if source is not None and (model or version):
        raise InputError("--from answers in this process; --model and --version are for a server")
    check_can_write(output, gallery)
    found = find_images(paths)
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(_open(source, url, model, version))
        pace = Pace(batch=min(batch, runner.max_batch or batch), in_flight=in_flight)
        sink = _sink(stack, output)
        for row in _with_progress(infer_files(runner, found, top, pace), len(found)):
            sink(row)
            rows.append(row)
    if gallery is not None:
        from client.gallery import write_gallery

        write_gallery(gallery, rows, runner.spec, runner.origin)
    failed = sum(row.error is not None for row in rows)
    if as_json:
        print_json({"answered": len(rows) - failed, "failed": failed, "rows": [row.as_json() for row in rows]})
    else:
        _print_table(rows, runner, output)
        typer.echo(f"{len(rows) - failed} answered, {failed} failed, by {runner.origin}")
    if failed:
        raise typer.Exit(1)


@app.command()
@reports_errors
def models(url: Url = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the models of a server."""
    from model.runners.triton import TritonServer

    states = TritonServer(url).models()
    if as_json:
        print_json(states)
    else:
        rows = [[state.name, state.version, state.state, state.reason] for state in states]
        table(["model", "version", "state", "reason"], rows)


@app.command()
@reports_errors
def show(
    model: Annotated[str, typer.Argument(help="A served model.")], url: Url = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show what a served model takes and gives."""
    from model.runners.triton import TritonRunner, TritonServer

    with TritonRunner(TritonServer(url), model) as runner:
        spec = runner.spec
    if as_json:
        print_json(spec)
        return
    table(["", spec.name], [*spec.described(), ("largest batch", str(runner.max_batch))])


def _open(source: Path | None, url: str, model: str | None, version: str) -> Runner:
    from model.runners import open_artifact

    if source is not None:
        return open_artifact(source)
    from model.runners.triton import TritonRunner, TritonServer

    server = TritonServer(url)
    return TritonRunner(server, model or _only_model(server), version)


def _only_model(server: TritonServer) -> str:
    ready = sorted({state.name for state in server.models() if state.state == "READY"})
    if len(ready) == 1:
        return ready[0]
    raise InputError(f"{server.url} serves {', '.join(ready) or 'no model'}; choose one with --model")


def _sink(stack: contextlib.ExitStack, output: Path | None) -> Callable[[Row], None]:
    from client.output import json_lines

    return stack.enter_context(json_lines(output)).write if output is not None else lambda row: None


def _with_progress(rows: Iterator[Row], total: int) -> Iterator[Row]:
    from rich.console import Console
    from rich.progress import track

    return iter(track(rows, "answering", total=total, console=Console(stderr=True), transient=True))


def _print_table(rows: list[Row], runner: Runner, output: Path | None) -> None:
    from model.tasks import task_of

    task = task_of(runner.spec)
    cells = [[f"error: {row.error}"] if row.answer is None else task.cells(row.answer) for row in rows[:MAX_TABLE_ROWS]]
    ranks = max(map(len, cells), default=1)
    shown = [
        [row.as_json()["path"], *answer, *[""] * (ranks - len(answer))]
        for row, answer in zip(rows, cells, strict=False)
    ]
    table(["picture", "answer", *[f"{rank}." for rank in range(2, ranks + 1)]], shown)
    if len(rows) > MAX_TABLE_ROWS:
        where = f"all are in {output}" if output else "--output FILE.jsonl writes all"
        typer.echo(f"… and {len(rows) - MAX_TABLE_ROWS} more; {where}")
