"""The `server` command."""

from __future__ import annotations

import signal
import time
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.console import JsonOption, application, print_json, progress, reports_errors, table
from model.errors import InputError, ServerError

if TYPE_CHECKING:
    from server.process import Server

app = application("Run NVIDIA Triton on a model repository.")


class RuntimeName(StrEnum):
    """Ways to run Triton."""

    pip = "pip"
    docker = "docker"


GrpcPort = Annotated[int | None, typer.Option(help="One server, by its gRPC port.")]


@app.callback()
def server() -> None:
    """Run NVIDIA Triton on a model repository.

    Examples:

    * server up --repository model_repository

    * server status

    * server down
    """


@app.command()
@reports_errors
def up(
    repository: Annotated[Path, typer.Option(help="The model repository to serve.")] = Path("model_repository"),
    runtime: Annotated[RuntimeName, typer.Option(help="pip: NVIDIA's binary from a wheel.")] = RuntimeName.pip,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    cache_mib: Annotated[
        int, typer.Option(min=0, help="Memory for answers of models exported with --response-cache; 0 keeps none.")
    ] = 0,
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds to wait until all models are loaded.")] = 120,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop Triton when this ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start Triton on the loopback address and wait until every model is ready.

    Example: server up --repository model_repository --grpc-port 9001
    """
    if runtime is RuntimeName.docker:
        raise InputError("NVIDIA's image is run by Compose: docker compose up triton (or triton-cpu without a GPU)")
    from server.process import Options, start, stop, wait_until_ready

    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    options = Options(repository=repository, cache_mib=cache_mib, **ports)
    if foreground:
        signal.signal(signal.SIGTERM, _as_interrupt)
    with progress(f"starting Triton on {repository}"):
        started = start(options, stops_with_parent=foreground)
        wait_until_ready(started, timeout_s)
    if as_json:
        print_json(started)
    else:
        typer.echo(
            f"ready: gRPC {options.host}:{grpc_port}, http://{options.host}:{http_port}, "
            f"metrics http://{options.host}:{metrics_port}/metrics (pid {started.pid})"
        )
    if foreground:
        try:
            _wait(started)
        finally:
            stop(started, keep_log=started.process() is None)


@app.command()
@reports_errors
def status(as_json: JsonOption = False) -> None:
    """Show the running servers and their models; exit 1 when one is not ready."""
    from server.process import running_servers
    from server.status import model_rows

    servers = running_servers()
    ready = {running.pid: running.is_ready() for running in servers}
    models = {running.pid: model_rows(running) if ready[running.pid] else [] for running in servers}
    if as_json:
        print_json([_document(one, ready[one.pid], models[one.pid]) for one in servers])
    for running in () if as_json else servers:
        state = "ready" if ready[running.pid] else "NOT READY"
        typer.echo(f"{running.options.repository}: {state}, gRPC {running.options.grpc_port}, pid {running.pid}")
        rows = [list(row.model_dump().values()) for row in models[running.pid]]
        table(["model", "version", "state", "images", "mean batch", "queue us"], [list(map(str, row)) for row in rows])
    if not servers and not as_json:
        typer.echo("no server is running; start one with `server up`")
    if not all(ready.values()):
        raise typer.Exit(1)


@app.command()
@reports_errors
def logs(
    grpc_port: GrpcPort = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the end of a server's log, also of one that failed to start."""
    from server.process import log_of

    log = log_of(grpc_port)
    last = log.read_text(errors="replace").splitlines()[-lines:]
    if as_json:
        print_json({"log": log, "lines": last})
    else:
        typer.echo("\n".join(last))


@app.command()
@reports_errors
def down(grpc_port: GrpcPort = None, as_json: JsonOption = False) -> None:
    """Stop the running servers, or the one on a port, and all their processes."""
    from server.process import running_servers, stop

    chosen = [one for one in running_servers() if grpc_port in (None, one.options.grpc_port)]
    if grpc_port is not None and not chosen:
        raise InputError(f"no server runs on gRPC port {grpc_port}; `server status` lists them")
    with progress(f"stopping {len(chosen)} server(s)"):
        for running in chosen:
            stop(running)
    if as_json:
        print_json({"stopped": [running.pid for running in chosen]})
    else:
        typer.echo(f"stopped {len(chosen)} server(s)")


def _document(running: Server, ready: bool, models: list[Any]) -> dict[str, Any]:
    return {"pid": running.pid, "ready": ready, "options": running.options, "models": models}


def _wait(running: Server) -> None:
    while running.process() is not None:
        time.sleep(0.2)
    raise ServerError(f"Triton ended; its log: {running.log}")


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
