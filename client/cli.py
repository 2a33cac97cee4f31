"""The `client` command."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.check import check
from client.commands.infer import infer
from client.commands.options import with_connection_options
from tritonkit.system.console import JsonOption, application, print_json, reports_errors, table

if TYPE_CHECKING:
    from tritonkit.triton.connection import Connection

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
    """


app.command()(infer)
app.command()(check)


@app.command()
@reports_errors
@with_connection_options()
def models(connection: Connection, as_json: JsonOption = False) -> None:
    """List the models of a server."""
    from client.connection import server_at

    states = server_at(connection).models()
    if as_json:
        print_json(states)
    else:
        rows = [[state.name, state.version, state.state, state.reason] for state in states]
        table(["model", "version", "state", "reason"], rows)


@app.command()
@reports_errors
@with_connection_options()
def show(
    model: Annotated[str, typer.Argument(help="A served model.")],
    connection: Connection,
    as_json: JsonOption = False,
) -> None:
    """Show the inputs and outputs of a served model. `--json` prints its spec if `builder` published the model."""
    from client.connection import server_at
    from client.model_description import describe_model
    from tritonkit.spec import METADATA_KEY
    from tritonkit.triton.served_spec import spec_from_config

    with closing(server_at(connection)) as server:
        config = server.config(model)
        description = describe_model(server, model, config)
    spec = spec_from_config(config, f"{server.url}/{model}") if METADATA_KEY in config.get("parameters", {}) else None
    if as_json:
        print_json(spec or description)
    elif spec is not None:
        rows = [("backend", description.backend), ("versions", ", ".join(description.versions))]
        table(["", spec.name], [*spec.summary_rows(), *rows, ("largest batch", str(description.max_batch))])
    else:
        table(["", model], description.rows())
