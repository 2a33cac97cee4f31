"""`client check`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import connects
from model.console import JsonOption, print_json, progress, reports_errors, say, table
from model.errors import CertificateError, InferenceError, InputError, TokenError, UnreachableError

if TYPE_CHECKING:
    from client.checking import Checked
    from client.evidence import Evidence
    from model.connection import Connection
    from model.runners.triton import TritonServer


@reports_errors
@connects()
def check(
    connection: Connection,
    models: Annotated[list[str] | None, typer.Argument(help="Served models.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the server that has a spec.")] = False,
    version: Annotated[str, typer.Option(help="A version; default: the server's choice.")] = "",
    repository: Annotated[Path, typer.Option(help="The repository that is served.")] = Path("model_repository"),
    golden: Annotated[Path | None, typer.Option(help="A golden.npz, in place of the version's.")] = None,
    verdict: Annotated[
        Path | None, typer.Option(help="A verdict.json, for its limits; default: the version's.")
    ] = None,
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
    from client.connection import server_at
    from client.evidence import Evidence
    from client.opening import models_with_spec

    evidence = Evidence(golden=golden, checkpoint=against, repository=repository, verdict=verdict)
    found = []
    with contextlib.closing(server_at(connection)) as server, progress(f"asking {connection.url}") as report:
        for model in models or models_with_spec(server):
            report(f"checking {model}")
            found.append(_checked(server, model, version, evidence, goes_on=every))
    print_json(found) if as_json else _tell(found)
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _checked(server: TritonServer, model: str, version: str, evidence: Evidence, goes_on: bool) -> Checked:
    """goes_on: what is wrong with this model alone is told of it, so that the others are checked all the same."""
    from client.checking import check_served, unchecked
    from model.runners.triton import TritonRunner

    try:
        runner = TritonRunner(server, model, version).pinned()
        version = runner.version
        return check_served(runner, evidence)
    except (CertificateError, TokenError, UnreachableError):  # the others would not answer either
        raise
    except (InputError, InferenceError) as error:
        if not goes_on:
            raise
        return unchecked(model, version, f"{server.url}/{model}", error)


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
            say(f"{one.origin} version {one.version}: {problem}")
        if one.comparisons and one.verdict is None:
            say(
                f"{one.origin} version {one.version}: judged by the limits of fp32, for its verdict.json is not here; "
                "what was exported in another precision may differ by more. --verdict names the file"
            )
