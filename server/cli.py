"""The `server` command."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from server.doctor.command import check_before_start, doctor
from server.model_commands import LocalServerOptions, register_model_commands
from server.options import UpOptions
from tritonkit.errors import InputError, ServerError
from tritonkit.options import options_of
from tritonkit.system.console import (
    JsonOption,
    application,
    exit_code,
    exit_with_error,
    print_json,
    print_text,
    progress,
    reports_errors,
    warn,
)

app = application("Run NVIDIA Triton on a model repository.")


@app.callback()
def server() -> None:
    """Run NVIDIA Triton on a model repository.

    Examples:

    * server up --repository model_repository

    * server status

    * server reload digits

    * server down
    """


@app.command()
@reports_errors
@options_of(UpOptions)
def up(
    up_options: UpOptions,
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds to wait for all models to load.")] = 120,
    force: Annotated[bool, typer.Option("--force", help="Start even if `server doctor` finds errors.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Wait, and stop Triton when this command ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start Triton on the loopback address and wait until every model is ready.

    Runs the checks of `server doctor` first; an error prevents the start.

    Example: server up --repository model_repository --grpc-port 9001
    """
    from server.network_policy import check_network_options, exposure_notes, security_warnings
    from server.process import start, stop, wait_until_ready
    from server.runtimes.table import runtime_of

    options = up_options.server_options
    check_network_options(options)  # report wrong options before problems of the machine
    check_before_start(options, force)
    with progress(f"starting Triton on {options.repository}") as report:
        started = start(options, stops_with_parent=foreground, report=report)
        wait_until_ready(started, timeout_s)
    options = started.options
    for sentence in exposure_notes(options, started.tokens):
        warn(sentence)
    for warning in security_warnings(options):
        warn(f"warning: {warning}")
    if as_json:
        document: dict[str, Any] = started.model_dump(mode="json", exclude={"tokens"})
        print_json({**document, "state": started.folder / "server.json"})
    else:
        print_text(
            f"ready: gRPC {options.grpc_text}, http://{options.http_host}:{options.http_port}, "
            f"metrics http://{options.http_host}:{options.metrics_port}/metrics ({started.label})"
        )
    if foreground:
        launched_by = runtime_of(started)
        try:
            while launched_by.is_alive(started):
                time.sleep(launched_by.poll_interval_s)
        finally:
            stop(started, keep_log=not launched_by.is_alive(started))
        raise ServerError(f"Triton ended; see its log: {started.log}", code="server.ended")


app.command()(doctor)
register_model_commands(app)


@app.command()
@reports_errors
@options_of(LocalServerOptions)
def logs(
    chosen: LocalServerOptions,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines, from the end.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the end of a server's log, even if it failed to start; stderr says which server."""
    from server.process import find_log

    log = find_log(chosen.grpc_port)
    last = log.path.read_text(errors="replace").splitlines()[-lines:]
    if as_json:
        fields = log.model_dump(mode="json", exclude={"path"})
        print_json({"log": log.path, **fields, "lines": last})
    else:
        warn(log.headline)
        print_text("\n".join(last))


@app.command()
@reports_errors
@options_of(LocalServerOptions)
def down(
    chosen: LocalServerOptions,
    all_servers: Annotated[bool, typer.Option("--all", help="Stop every server of this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the running server; if several run, choose one with --grpc-port, or use --all."""
    from server.process import find_servers, stop

    if all_servers and chosen.grpc_port is not None:
        raise InputError("--grpc-port and --all exclude each other; give only one", code="option.conflict")
    servers, unknown = find_servers() if all_servers else (chosen.running(", or stop all with --all"), {})
    with progress(f"stopping {len(servers)} server(s)"):
        for running in servers:
            stop(running)
    if as_json:
        print_json({"stopped": [running.pid or running.container for running in servers]})
    else:
        print_text(f"stopped {len(servers)} server(s)")
        for running in servers:
            print_text(f"  {running.options.grpc_port}  {running.options.repository}")
    if unknown:
        exit_with_error("\n".join(map(str, unknown.values())), code=exit_code(next(iter(unknown.values()))))
