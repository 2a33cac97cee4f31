"""`server status`, `reload`, `load` and `unload`: show and change the models of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.errors import CheckFailedError, InputError
from tritonkit.system.console import (
    JsonOption,
    exit_code,
    exit_with_error,
    print_json,
    print_text,
    progress,
    reports_errors,
    table,
    warn,
)

if TYPE_CHECKING:
    from server.lifecycle import ModelChange, ModelManager, Status
    from server.runtimes.base import Server

GrpcPortOption = Annotated[int | None, typer.Option(help="A server of this machine, by its gRPC port.")]
UrlOption = Annotated[
    str | None, typer.Option(help="A remote server: HOST:PORT of its gRPC, grpcs://HOST:PORT with TLS.")
]
TlsCaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="With --url: the CA of the server's certificate (PEM).")
]
TlsCertOption = Annotated[Path | None, typer.Option("--tls-cert", help="With --url: the client certificate (PEM).")]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="With --url: the key of --tls-cert (PEM).")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds to wait for a model to load.")]
ModelsArgument = Annotated[list[str], typer.Argument(help="Model names.")]


def register_model_commands(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (status, reload, load, unload):
        app.command()(command)


@reports_errors
def status(
    grpc_port: GrpcPortOption = None,
    url: UrlOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show servers and their models; exit 1 when one is not ready.

    Example: server status
    """
    from server.lifecycle import Status
    from server.process import find_servers
    from server.runtimes.table import runtime_of

    files = (tls_ca, tls_cert, tls_key)
    _check_server_options(grpc_port, url, files)
    running_servers, unknown = ([], {}) if url else find_servers(grpc_port)
    if grpc_port is not None and not running_servers and not unknown:
        raise _not_running(grpc_port)
    servers: list[tuple[str, Server | None]] = [(server.options.grpc_url, server) for server in running_servers]
    shown: list[tuple[str, Server | None, Status]] = []
    for address, running in [(url, None)] if url else servers:
        if running is not None and not running.is_ready():
            shown.append((address, running, Status(ready=False)))
            continue
        with _models_of(running, address, files, 20) as manager:
            shown.append((address, running, manager.status()))
    if as_json:
        documents = []
        for address, running, state in shown:
            fields = running.model_dump(mode="json", exclude={"tokens"}) if running else {}
            if running is not None:
                fields["restarts"] = runtime_of(running).restart_count(running)
            documents.append({"url": address, **fields, **state.model_dump(mode="json")})
        print_json(documents)
    else:
        for row in shown:
            _print_server(*row)
        if not shown and not unknown:
            print_text("no server is running; start one with `server up`")
    if unknown:
        exit_with_error("\n".join(map(str, unknown.values())), code=exit_code(next(iter(unknown.values()))))
    if not all(state.ready for _, _, state in shown):
        raise typer.Exit(1)


@reports_errors
def reload(
    models: Annotated[list[str] | None, typer.Argument(help="Model names; default: all models.")] = None,
    grpc_port: GrpcPortOption = None,
    url: UrlOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout_s: TimeoutOption = 600,
    as_json: JsonOption = False,
) -> None:
    """Reload models whose files changed; old versions serve until the new ones are ready.

    Exit 1 when a model fails to load: its old version keeps serving.

    Example: server reload digits
    """
    _load_models(models or [], grpc_port, url, (tls_ca, tls_cert, tls_key), timeout_s, as_json)


@reports_errors
def load(
    models: ModelsArgument,
    grpc_port: GrpcPortOption = None,
    url: UrlOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout_s: TimeoutOption = 600,
    as_json: JsonOption = False,
) -> None:
    """Load models of the server's repository, and the members of ensembles.

    The repository decides which version is loaded: `builder promote MODEL VERSION`.

    Example: server load digits
    """
    _load_models(models, grpc_port, url, (tls_ca, tls_cert, tls_key), timeout_s, as_json)


@reports_errors
def unload(
    models: ModelsArgument,
    grpc_port: GrpcPortOption = None,
    url: UrlOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout_s: TimeoutOption = 600,
    as_json: JsonOption = False,
) -> None:
    """Unload models and the ensembles that need them. Files are not deleted.

    Example: server unload digits
    """
    files = (tls_ca, tls_cert, tls_key)
    _check_server_options(grpc_port, url, files)
    running = None if url else _select_server(grpc_port)
    with _models_of(running, url, files, timeout_s) as manager, progress(f"unloading {', '.join(models)}"):
        changes = manager.unload(models)
    _print_changes(changes, as_json)


TlsFiles = tuple[Path | None, Path | None, Path | None]


def _load_models(
    models: list[str], grpc_port: int | None, url: str | None, files: TlsFiles, timeout_s: float, as_json: bool
) -> None:
    _check_server_options(grpc_port, url, files)
    running = None if url else _select_server(grpc_port)
    step = f"loading {', '.join(models) or 'what has changed'}"
    with _models_of(running, url, files, timeout_s) as manager, progress(step):
        changes = manager.load(models)
    failed = [change for change in changes if change.problem]
    if failed:
        messages = []
        for change in failed:
            serving = f"version {', '.join(change.after)} keeps serving" if change.after else "no version is ready"
            messages.append(f"{change.model} could not be loaded: {change.problem.rstrip('.')}; {serving}")
        option = f" --repository {running.options.repository}" if running else ""
        if commands := [f"builder rollback {change.model}{option}" for change in failed if change.after]:
            commands_text = "; ".join(commands)
            messages.append(f"After a restart Triton has no version of this model; roll back before: {commands_text}")
        raise CheckFailedError("\n".join(messages), changes, code="server.model_not_loaded")
    _print_changes(changes, as_json)


def _check_server_options(grpc_port: int | None, url: str | None, files: TlsFiles) -> None:
    """Check that --url, --grpc-port and TLS options fit together. Raises InputError."""
    if url and grpc_port is not None:
        raise InputError(
            "--grpc-port selects a local server, --url a remote one; give only one", code="option.conflict"
        )
    if not url and any(files):
        raise InputError("--tls-ca, --tls-cert and --tls-key need --url", code="option.needs_url")


def _select_server(grpc_port: int | None) -> Server:
    from server.process import running_servers

    servers = running_servers(grpc_port)
    if grpc_port is not None and not servers:
        raise _not_running(grpc_port)
    if len(servers) > 1:
        ports = ", ".join(str(server.options.grpc_port) for server in servers)
        raise InputError(
            f"{len(servers)} servers are running; choose one with --grpc-port: {ports}", code="server.several_running"
        )
    if not servers:
        raise InputError(
            "no server is running; start one with `server up`, or select a remote one with --url",
            code="server.not_running",
        )
    return servers[0]


def _not_running(grpc_port: int) -> InputError:
    return InputError(f"no server runs on gRPC port {grpc_port}; `server status` lists them", code="server.not_running")


def _models_of(running: Server | None, url: str | None, files: TlsFiles, timeout_s: float) -> ModelManager:
    from server.lifecycle import ModelManager
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import Connection

    if running is not None:
        return ModelManager.of(running, timeout_s)
    ca, certificate, key = files
    connection = Connection(url=url or "", tls_ca=ca, tls_cert=certificate, tls_key=key, deadline_s=timeout_s)
    return ModelManager(TritonClient(connection), None)


def _print_changes(changes: list[ModelChange], as_json: bool) -> None:
    for message in filter(None, (change.warning for change in changes)):
        warn(f"warning: {message}")
    if as_json:
        print_json(changes)
        return
    for change in changes:
        before, after = ", ".join(change.before) or "none", ", ".join(change.after) or "none"
        text = f"version {after}, as before" if before == after else f"version {before} -> {after}"
        print_text(f"{change.model}: {text}")
    if not changes:
        print_text("no model is loaded")


def _print_server(address: str, running: Server | None, status: Status) -> None:
    from server.runtimes.table import runtime_of

    state = "ready" if status.ready else "NOT READY"
    if running is None:
        print_text(f"{address}: {state}")
    else:
        options = running.options
        http_text = " and HTTP" if options.http_host == options.host else ""
        exposure = f" (gRPC{http_text} exposed to other machines)" if options.is_exposed else ""
        print_text(f"{options.repository}: {state}, gRPC {options.grpc_text}{exposure}, {running.label}")
        if restarts := runtime_of(running).restart_count(running):
            print_text(f"restarted {restarts} time(s) after a crash; see `server logs`")
    rows = [list(map(str, row.model_dump(exclude={"reason"}).values())) for row in status.models]
    table(["model", "version", "state", "requests", "failures", "images", "mean batch", "queue us"], rows)
    for row in status.models:
        if row.reason:
            print_text(f"{row.model} version {row.version}: {row.reason}")
