"""`server status`, `reload`, `load` and `unload`: show and change the models of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from pydantic import Field, model_validator

from tritonkit.errors import CheckFailedError, InputError
from tritonkit.options import Options, option_error, options_of
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


class LocalServerOptions(Options):
    """Which server of this machine a command works on."""

    grpc_port: int | None = None
    """A server of this machine, by its gRPC port."""

    def running(self, advice: str = "") -> list[Server]:
        """The server of the port, or the only one that runs, or none. Raises InputError.

        advice: what else to do where several run.
        """
        from server.process import running_servers

        servers = running_servers(self.grpc_port)
        if self.grpc_port is not None and not servers:
            raise self.not_running()
        if len(servers) > 1:
            listed = "\n".join(
                f"  --grpc-port {running.options.grpc_port}  {running.options.repository}" for running in servers
            )
            raise InputError(
                f"{len(servers)} servers are running; choose one{advice}:\n{listed}", code="server.several_running"
            )
        return servers

    def not_running(self) -> InputError:
        """The error for a port without a server."""
        return InputError(
            f"no server runs on gRPC port {self.grpc_port}; `server status` lists them", code="server.not_running"
        )


class ServerOptions(LocalServerOptions):
    """Which server a command works on, of this machine or a remote one."""

    url: str | None = None
    """A remote server: HOST:PORT of its gRPC, grpcs://HOST:PORT with TLS."""
    tls_ca: Path | None = None
    """With --url: the CA of the server's certificate (PEM)."""
    tls_cert: Path | None = None
    """With --url: the client certificate (PEM)."""
    tls_key: Path | None = None
    """With --url: the key of --tls-cert (PEM)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url and self.grpc_port is not None:
            raise option_error(
                "--grpc-port selects a local server, --url a remote one; give only one", code="option.conflict"
            )
        if not self.url and (self.tls_ca or self.tls_cert or self.tls_key):
            raise option_error("--tls-ca, --tls-cert and --tls-key need --url", code="option.needs_url")
        return self

    def select(self) -> Server | None:
        """The server of this machine; None for a remote one. Raises InputError if there is none, or several."""
        if self.url:
            return None
        if not (servers := self.running()):
            raise InputError(
                "no server is running; start one with `server up`, or select a remote one with --url",
                code="server.not_running",
            )
        return servers[0]

    def models_of(self, running: Server | None, timeout_s: float = 20) -> ModelManager:
        """Open the models of a server of this machine, or of the remote one. timeout_s: the deadline of one request.

        Raises InputError for a wrong address or certificate, TokenError for a wrong token.
        """
        from server.lifecycle import ModelManager
        from tritonkit.triton.client import TritonClient
        from tritonkit.triton.connection import Connection

        if running is not None:
            return ModelManager.of(running, timeout_s)
        files = {name: getattr(self, name) for name in ("tls_ca", "tls_cert", "tls_key")}
        return ModelManager(TritonClient(Connection(url=self.url or "", deadline_s=timeout_s, **files)), self._local())

    def _local(self) -> Server | None:
        """The server of this machine that `url` is the address of, with the options it was started with."""
        from server.process import find_servers
        from tritonkit.triton.connection import Connection

        address = Connection(url=self.url or "").address
        for server in find_servers()[0]:
            if address.port in server.options.ports.values() and (
                address.is_loopback or address.host == server.options.host
            ):
                return server
        return None


class LoadOptions(ServerOptions):
    """Which server changes its models."""

    timeout_s: Annotated[float, Field(ge=1)] = 600
    """Seconds to wait for a model to load."""


ModelsArgument = Annotated[list[str], typer.Argument(help="Model names.")]


def register_model_commands(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (status, reload, load, unload):
        app.command()(command)


@reports_errors
@options_of(ServerOptions)
def status(chosen: ServerOptions, as_json: JsonOption = False) -> None:
    """Show servers and their models; exit 1 when one is not ready.

    Example: server status
    """
    from server.lifecycle import Status
    from server.process import find_servers
    from server.runtimes.table import runtime_of

    running_servers, unknown = ([], {}) if chosen.url else find_servers(chosen.grpc_port)
    if chosen.grpc_port is not None and not running_servers and not unknown:
        raise chosen.not_running()
    servers: list[tuple[str, Server | None]] = [(server.options.grpc_url, server) for server in running_servers]
    shown: list[tuple[str, Server | None, Status]] = []
    for address, running in [(chosen.url, None)] if chosen.url else servers:
        if running is not None and not running.is_ready():
            shown.append((address, running, Status(ready=False)))
            continue
        with chosen.models_of(running) as manager:
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
@options_of(LoadOptions)
def reload(
    chosen: LoadOptions,
    models: Annotated[list[str] | None, typer.Argument(help="Model names; default: all models.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Reload models whose files changed; old versions serve until the new ones are ready.

    Exit 1 when a model fails to load: its old version keeps serving.

    Example: server reload digits
    """
    _load_models(chosen, models or [], as_json)


@reports_errors
@options_of(LoadOptions)
def load(chosen: LoadOptions, models: ModelsArgument, as_json: JsonOption = False) -> None:
    """Load models of the server's repository, and the members of ensembles.

    The repository decides which version is loaded: `builder promote MODEL VERSION`.

    Example: server load digits
    """
    _load_models(chosen, models, as_json)


@reports_errors
@options_of(LoadOptions)
def unload(chosen: LoadOptions, models: ModelsArgument, as_json: JsonOption = False) -> None:
    """Unload models and the ensembles that need them. Files are not deleted.

    Example: server unload digits
    """
    running = chosen.select()
    with chosen.models_of(running, chosen.timeout_s) as manager, progress(f"unloading {', '.join(models)}"):
        changes = manager.unload(models)
    _print_changes(changes, as_json)


def _load_models(chosen: LoadOptions, models: list[str], as_json: bool) -> None:
    running = chosen.select()
    step = f"loading {', '.join(models) or 'what has changed'}"
    with chosen.models_of(running, chosen.timeout_s) as manager, progress(step):
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
