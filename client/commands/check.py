"""`client check`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import connects
from model.console import JsonOption, print_json, progress, reports_errors, table
from model.errors import InputError

if TYPE_CHECKING:
    from client.checking import Checked
    from model.connection import Connection


@reports_errors
@connects()
def check(
    connection: Connection,
    models: Annotated[list[str] | None, typer.Argument(help="Served models.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the server that has a spec.")] = False,
    version: Annotated[str, typer.Option(help="A version; default: the server's choice.")] = "",
    repository: Annotated[Path, typer.Option(help="The repository that is served.")] = Path("model_repository"),
    golden: Annotated[Path | None, typer.Option(help="A golden.npz, in place of the version's.")] = None,
    against: Annotated[Path | None, typer.Option(help="A checkpoint, with its golden sample beside it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send the golden images through the running server; exit 1 when its answers are not the checkpoint's.

    Examples:

    * client check digits

    * client check --all --repository /srv/models --url triton:8001
    """
    if every == bool(models):
        raise InputError("name the models to check, or give --all, and not both")
    if golden is not None and against is not None:
        raise InputError("--golden and --against both say what to compare with; give one")
    from client.checking import Evidence, check_served, unchecked
    from client.connection import server_at
    from client.opening import models_with_spec
    from model.runners.triton import TritonRunner

    evidence = Evidence(golden=golden, checkpoint=against, repository=repository)
    found = []
    with contextlib.ExitStack() as stack, progress(f"asking {connection.url}") as report:
        server = server_at(connection)
        for model in models or models_with_spec(server):
            report(f"checking {model}")
            runner = stack.enter_context(TritonRunner(server, model, version))
            try:
                found.append(check_served(runner, evidence))
            except InputError as error:
                if not every:
                    raise
                found.append(unchecked(runner, error))  # the other models are checked all the same
    print_json(found) if as_json else _tell(found)
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _tell(found: list[Checked]) -> None:
    header = ["model", "version", "asked", "images", "largest error", "decisions kept", "verdict"]
    table(
        header,
        [
            [
                one.model,
                one.version,
                comparison.asked,
                str(comparison.images),
                f"{comparison.max_abs:.1e} (limit {one.limits.max_abs:.0e})",
                f"{comparison.decisions_kept:.0%}",
                "passed" if one.passed else "FAILED",
            ]
            for one in found
            for comparison in one.comparisons
        ],
    )
    for one in found:
        for problem in one.problems:
            typer.echo(f"{one.origin} version {one.version}: {problem}")
