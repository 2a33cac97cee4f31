"""`server status`, `reload`, `load` and `unload`: what a running server has, and changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.console import JsonOption, exit_code, fail, print_json, progress, reports_errors, say, table, warn
from model.errors import CheckFailedError, InputError, ServerError

if TYPE_CHECKING:
    from server.control import Control
    from server.lifecycle import Change
    from server.runtime import Server
    from server.status import Status

GrpcPort = Annotated[int | None, typer.Option(help="One server of this machine, by its gRPC port.")]
Url = Annotated[str | None, typer.Option(help="A server elsewhere: HOST:PORT of its gRPC, grpcs://HOST:PORT with TLS.")]
TlsCa = Annotated[Path | None, typer.Option("--tls-ca", help="With --url: who signed the server's certificate (PEM).")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="With --url: the certificate to show (PEM).")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="With --url: its key (PEM).")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that loading a model may take.")]
Models = Annotated[list[str], typer.Argument(help="Names of models.")]


def register(app: typer.Typer) -> None:
    """Give the application these commands."""
    for command in (status, reload, load, unload):
        app.command()(command)


@reports_errors
def status(
    grpc_port: GrpcPort = None,
    url: Url = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: JsonOption = False,
) -> None:
    """Show servers and their models; exit 1 when one is not ready.

    Example: server status
    """
    from server.status import Status, status_of

    _check_where(grpc_port, url, (tls_ca, tls_cert, tls_key))
    servers, lost = _asked_for(url, grpc_port)
    shown = []
    for address, running in servers:
        answers = running is None or running.is_ready()
        with _control(running, address, (tls_ca, tls_cert, tls_key), 20) as control:
            shown.append((address, running, status_of(control) if answers else Status(ready=False)))
    if as_json:
        print_json([_document(address, running, found) for address, running, found in shown])
    else:
        for one in shown:
            _show(*one)
        if not shown and not lost:
            say("no server is running; start one with `server up`")
    if lost:
        fail("\n".join(map(str, lost)), code=exit_code(lost[0]))
    if not all(found.ready for _, _, found in shown):
        raise typer.Exit(1)


@reports_errors
def reload(
    models: Annotated[list[str] | None, typer.Argument(help="Names of models; none are all.")] = None,
    grpc_port: GrpcPort = None,
    url: Url = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    timeout_s: Timeout = 600,
    as_json: JsonOption = False,
) -> None:
    """Have a server take up what has changed in its repository; what it has goes on answering until then.

    Exit 1 when a model could not be loaded: the version before goes on answering.

    Example: server reload digits
    """
    _load(models or [], grpc_port, url, (tls_ca, tls_cert, tls_key), timeout_s, as_json)


@reports_errors
def load(
    models: Models,
    grpc_port: GrpcPort = None,
    url: Url = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    timeout_s: Timeout = 600,
    as_json: JsonOption = False,
) -> None:
    """Load models of the server's repository, with what the ensembles among them need.

    Which version it loads stands in the repository: `builder promote MODEL VERSION`.

    Example: server load digits
    """
    _load(models, grpc_port, url, (tls_ca, tls_cert, tls_key), timeout_s, as_json)


@reports_errors
def unload(
    models: Models,
    grpc_port: GrpcPort = None,
    url: Url = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    timeout_s: Timeout = 600,
    as_json: JsonOption = False,
) -> None:
    """Have a server let go of models, and of the ensembles that need them. Their files stay.

    Example: server unload digits
    """
    from server.lifecycle import unload as unloaded

    files = (tls_ca, tls_cert, tls_key)
    _check_where(grpc_port, url, files)
    running = None if url else _server(grpc_port)
    with _control(running, url, files, timeout_s) as control, progress(f"unloading {', '.join(models)}"):
        changes = unloaded(control, models)
    _tell(changes, as_json)


Files = tuple[Path | None, Path | None, Path | None]


def _load(
    models: list[str], grpc_port: int | None, url: str | None, files: Files, timeout_s: float, as_json: bool
) -> None:
    from server.lifecycle import load

    _check_where(grpc_port, url, files)
    running = None if url else _server(grpc_port)
    what = f"loading {', '.join(models) or 'what has changed'}"
    with _control(running, url, files, timeout_s) as control, progress(what):
        changes = load(control, running, models)
    failed = [change for change in changes if change.problem]
    if failed:
        said = [*map(_problem, failed), *_way_back(failed, running)]
        raise CheckFailedError("\n".join(said), changes)
    _tell(changes, as_json)


def _check_where(grpc_port: int | None, url: str | None, files: Files) -> None:
    """Refuse what would be passed over. Raises InputError."""
    if url and grpc_port is not None:
        raise InputError("--grpc-port names a server of this machine, --url one elsewhere: give one of them")
    if not url and any(files):
        raise InputError("--tls-ca, --tls-cert and --tls-key go with --url; servers of this machine are known")


def _server(grpc_port: int | None) -> Server:
    found = _servers(grpc_port)
    if len(found) > 1:
        ports = ", ".join(str(one.options.grpc_port) for one in found)
        raise InputError(f"{len(found)} servers are running; choose one with --grpc-port: {ports}")
    if not found:
        raise InputError("no server is running; start one with `server up`, or name one elsewhere with --url")
    return found[0]


def _servers(grpc_port: int | None) -> list[Server]:
    from server.process import running_servers

    found = running_servers(grpc_port)
    if grpc_port is not None and not found:
        raise InputError(f"no server runs on gRPC port {grpc_port}; `server status` lists them")
    return found


def _asked_for(url: str | None, grpc_port: int | None) -> tuple[list[tuple[str, Server | None]], list[ServerError]]:
    """Servers by their addresses, and why of others it cannot be found out whether they run. Raises InputError."""
    from server.process import known_servers

    if url:
        return [(url, None)], []
    found, lost = known_servers(grpc_port)
    if grpc_port is not None and not found and not lost:
        raise InputError(f"no server runs on gRPC port {grpc_port}; `server status` lists them")
    return [(one.options.grpc_url, one) for one in found], list(lost.values())


def _control(running: Server | None, url: str | None, files: Files, timeout_s: float) -> Control:
    from model.connection import Connection
    from server.control import control_at, control_of

    if running is not None:
        return control_of(running, timeout_s)
    ca, certificate, key = files
    return control_at(Connection(url=url or "", tls_ca=ca, tls_cert=certificate, tls_key=key, deadline_s=timeout_s))


def _tell(changes: list[Change], as_json: bool) -> None:
    for warned in filter(None, (change.warning for change in changes)):
        warn(f"warning: {warned}")
    if as_json:
        print_json(changes)
        return
    for change in changes:
        before, after = ", ".join(change.before) or "none", ", ".join(change.after) or "none"
        what = f"version {after}, as before" if before == after else f"version {before} -> {after}"
        say(f"{change.model}: {what}")
    if not changes:
        say("no model is loaded")


def _problem(change: Change) -> str:
    goes_on = f"version {', '.join(change.after)} goes on answering" if change.after else "it does not answer"
    return f"{change.model} could not be loaded: {change.problem.rstrip('.')}; {goes_on}"


def _way_back(failed: list[Change], running: Server | None) -> list[str]:
    """What keeps the versions that go on answering over a restart, which may come by itself."""
    where = f" --repository {running.options.repository}" if running else ""
    undo = [f"builder rollback {change.model}{where}" for change in failed if change.after]
    return [f"A Triton that starts again has only what loads; go back before: {'; '.join(undo)}"] if undo else []


def _show(address: str, running: Server | None, found: Status) -> None:
    from server.runtime_table import runtime_of

    state = "ready" if found.ready else "NOT READY"
    where = f"{running.options.repository}: {state}, gRPC {_listens(running)}, {running.label}" if running else ""
    say(where or f"{address}: {state}")
    if running is not None and (restarts := runtime_of(running).restarts(running)):
        say(f"started again {restarts} time(s) after it had died: `server logs`")
    rows = [list(map(str, row.model_dump(exclude={"reason"}).values())) for row in found.models]
    table(["model", "version", "state", "requests", "failures", "images", "mean batch", "queue us"], rows)
    for row in found.models:
        if row.reason:
            say(f"{row.model} version {row.version}: {row.reason}")


def _listens(running: Server) -> str:
    """Where its gRPC listens, and that others can reach it where they can."""
    options = running.options
    open_too = " and HTTP" if options.http_host == options.host else ""
    return f"{options.grpc_shown} (gRPC{open_too} open to other machines)" if options.exposed else options.grpc_shown


def _document(address: str, running: Server | None, found: Status) -> dict[str, Any]:
    from server.runtime_table import runtime_of

    about = running.model_dump(mode="json", exclude={"tokens"}) if running else {}
    if running is not None:
        about["restarts"] = runtime_of(running).restarts(running)
    return {"url": address, **about, **found.model_dump(mode="json")}
