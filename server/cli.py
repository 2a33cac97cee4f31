"""The `server` command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.doctor.command import RuntimeChoice, check_before_start, doctor
from server.model_commands import GrpcPortOption, register_model_commands
from tritonkit.errors import InputError, ServerError
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

if TYPE_CHECKING:
    from server.runtimes.base import Server

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
def up(
    repository: Annotated[Path, typer.Option(help="The model repository to serve.")] = Path("model_repository"),
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Load only this model and the models it needs; repeatable.")
    ] = None,
    runtime: Annotated[
        RuntimeChoice, typer.Option(help="pip: NVIDIA's binary from a wheel; docker: a container.")
    ] = RuntimeChoice.pip,
    image: Annotated[str | None, typer.Option(help="The image of --runtime docker.")] = None,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    host: Annotated[
        str, typer.Option(help="The IPv4 address to listen on; with --expose other machines can reach it.")
    ] = ("127.0.0.1"),
    expose: Annotated[bool, typer.Option("--expose", help="Allow a --host that other machines can reach.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="With --expose: allow it without TLS.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS for gRPC: the server's certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of --tls-cert (PEM).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Mutual TLS: accept only clients with a certificate of this CA (PEM).")
    ] = None,
    cache_mib: Annotated[
        int, typer.Option(min=0, help="MiB for cached responses of models exported with --response-cache; 0: no cache.")
    ] = 0,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Load version-compatible TensorRT plans; they contain code.")
    ] = False,
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
    from server.network_policy import check_network_options
    from server.options import Options
    from server.process import start, stop, wait_until_ready
    from server.runtimes.table import runtime_of
    from server.security import Security

    options = Options(
        repository=repository,
        models=tuple(models or ()),
        runtime=runtime.value,
        image=image,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        security=Security(tls_certificate=tls_cert, tls_key=tls_key, tls_ca=tls_ca, expose=expose, plaintext=insecure),
        cache_mib=cache_mib,
        version_compatible=version_compatible,
    )
    check_network_options(options)  # report wrong options before problems of the machine
    check_before_start(options, force)
    with progress(f"starting Triton on {repository}") as report:
        started = start(options, stops_with_parent=foreground, report=report)
        wait_until_ready(started, timeout_s)
    _print_ready(started, as_json)
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
def logs(
    grpc_port: GrpcPortOption = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines, from the end.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the end of a server's log, even if it failed to start; stderr says which server."""
    from server.process import find_log

    log = find_log(grpc_port)
    last = log.path.read_text(errors="replace").splitlines()[-lines:]
    if as_json:
        fields = log.model_dump(mode="json", exclude={"path"})
        print_json({"log": log.path, **fields, "lines": last})
    else:
        warn(log.headline)
        print_text("\n".join(last))


@app.command()
@reports_errors
def down(
    grpc_port: GrpcPortOption = None,
    all_servers: Annotated[bool, typer.Option("--all", help="Stop every server of this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the running server; if several run, choose one with --grpc-port, or use --all."""
    from server.process import find_servers, running_servers, stop

    if all_servers and grpc_port is not None:
        raise InputError("--grpc-port and --all exclude each other; give only one", code="option.conflict")
    servers, unknown = find_servers() if all_servers else (running_servers(grpc_port), {})
    if grpc_port is not None and not servers:
        raise InputError(
            f"no server runs on gRPC port {grpc_port}; `server status` lists them", code="server.not_running"
        )
    if len(servers) > 1 and not all_servers:
        listed = "\n".join(
            f"  --grpc-port {running.options.grpc_port}  {running.options.repository}" for running in servers
        )
        raise InputError(
            f"{len(servers)} servers are running; choose one, or stop all with --all:\n{listed}",
            code="server.several_running",
        )
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


def _print_ready(started: Server, as_json: bool) -> None:
    """Print the addresses of a server; on stderr, what is exposed and security warnings."""
    from server.network_policy import exposure_notes, security_warnings

    options = started.options
    for sentence in exposure_notes(options, started.tokens):
        warn(sentence)
    for warning in security_warnings(options):
        warn(f"warning: {warning}")
    if as_json:
        document: dict[str, Any] = started.model_dump(mode="json", exclude={"tokens"})
        print_json({**document, "state": started.folder / "server.json"})
        return
    print_text(
        f"ready: gRPC {options.grpc_text}, http://{options.http_host}:{options.http_port}, "
        f"metrics http://{options.http_host}:{options.metrics_port}/metrics ({started.label})"
    )
