"""`client shadow`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import ConnectionOptions
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, table

if TYPE_CHECKING:
    from client.shadow.mirror import ShadowResult


@reports_errors
@options_of(ConnectionOptions)
def shadow(
    options: ConnectionOptions,
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A served model.")],
    candidate: Annotated[int, typer.Option(min=0, help="The version to try, of the same model repository.")],
    share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of the live requests to mirror.")] = 0.1,
    minutes: Annotated[float, typer.Option(min=0.001, help="Longest time.")] = 10.0,
    max_changed: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Highest acceptable share of changed answers.")
    ] = 0.02,
    repository: Annotated[
        Path | None, typer.Option(help="The repository that the server serves; default: that of the local server.")
    ] = None,
    trace_file: Annotated[
        Path | None, typer.Option(help="The server's trace file, where this machine sees it at another path.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Mirror live requests to another version of a model; exit 0 to promote it, 1 to keep the served one.

    Examples:

    * client shadow cats --candidate 5

    * client shadow cats --candidate 5 --share 0.5 --minutes 60 --max-changed 0.01
    """
    from client.shadow.mirror import ShadowPlan
    from client.shadow.mirror import shadow as mirror_requests
    from tritonkit.system.local_servers import recorded_server_at
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import recorded_tokens

    connection = options.connection(context)
    local = recorded_server_at(connection.address.port) if connection.address.is_loopback else None
    plan = ShadowPlan(
        model=model,
        candidate=candidate,
        share=share,
        minutes=minutes,
        max_changed=max_changed,
        repository=repository or (local.repository if local is not None else Path("model_repository")),
        trace_file=trace_file,
    )
    with (
        TritonClient(connection, tokens=recorded_tokens(connection.url)) as server,
        progress(f"connecting to {connection.url}") as report,
    ):
        result = mirror_requests(plan, server, report, every_s=1.0 if sys.stderr.isatty() else 30.0)
    print_json(result) if as_json else _print_result(result, plan.repository)
    if result.decision != "promote":
        raise typer.Exit(1)


def _print_result(result: ShadowResult, repository: Path) -> None:
    times = [(result.current, result.current_ms), (result.candidate, result.candidate_ms)]
    table(
        ["version", "compute time of a request"],
        [[version, "-" if ms is None else f"{ms:.2f} ms"] for version, ms in times],
    )
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    print_text(
        f"{result.requests} requests mirrored in {result.seconds:.0f} s{skipped}: {result.changed} of {result.images} "
        f"answers changed (95 % interval at any time: {result.low:.2%} to {result.high:.2%})"
    )
    print_text(f"{result.decision}: {result.reason}")
    if result.decision == "promote":
        where = f" --repository {shlex.quote(str(repository))}"
        print_text(f"builder promote {result.model} {result.candidate}{where} && server reload {result.model}")
