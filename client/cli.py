"""The `client` command."""

from __future__ import annotations

from typing import Annotated

import typer

from client.commands.check import check
from client.commands.compare import compare
from client.commands.drift import drift
from client.commands.infer import infer
from client.commands.options import ConnectionOptions
from client.commands.shadow import shadow
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, application, print_json, reports_errors, table

app = application("Answer images with a served model or with an artifact.")


@app.callback()
def client() -> None:
    """Answer images with a served model or with an artifact.

    Examples:

    * client infer photos/ --model imagenet

    * client infer 'photos/**/*.jpg' cat.png --model imagenet --top 5 --output answers.jsonl --gallery sheet.html

    * client infer photos/ --from runs/digits/1/best.safetensors

    * client infer photos/ --model people --masks masks/ --cutouts cut/ --background beach.jpg

    * client infer photos/ --model faces --output faces.npy --output faces.parquet

    * client models

    * client check --all

    * client drift imagenet photos/

    * client compare cats@3 cats@4 photos/

    * client shadow cats --candidate 5
    """


app.command()(infer)
app.command()(check)
app.command()(drift)
app.command()(compare)
app.command()(shadow)


@app.command()
@reports_errors
@options_of(ConnectionOptions)
def models(options: ConnectionOptions, context: typer.Context, as_json: JsonOption = False) -> None:
    """List the models of a server."""
    from client.connection import server_at

    states = server_at(options.connection(context)).models()
    if as_json:
        print_json(states)
    else:
        rows = [[state.name, state.version, state.state, state.reason] for state in states]
        table(["model", "version", "state", "reason"], rows)


@app.command()
@reports_errors
@options_of(ConnectionOptions)
def show(
    options: ConnectionOptions,
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A served model.")],
    as_json: JsonOption = False,
) -> None:
    """Show the inputs and outputs of a served model. `--json` prints its spec if `builder` published the model."""
    from client.connection import server_at

    with server_at(options.connection(context)) as server:
        served, versions = server.model(model), server.versions(model)
    spec = served.spec() if served.has_spec else None
    if as_json:
        print_json(spec or {**served.model_dump(mode="json"), "versions": versions})
        return
    rows = [("backend", served.backend), ("versions", ", ".join(versions))]
    if spec is not None:
        rows = [*spec.summary_rows(), *rows]
    else:
        rows += [("input", str(tensor)) for tensor in served.inputs]
        rows += [("output", str(tensor)) for tensor in served.outputs]
        rows += [("steps", ", ".join(served.steps))] if served.steps else []
    rows.append(("largest batch", str(served.max_batch) if served.max_batch else "no batches"))
    table(["", spec.name if spec else model], rows)
