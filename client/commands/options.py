"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from client.connection import INFER_DEFAULTS
from tritonkit.errors import InputError
from tritonkit.system.console import DEFAULT_URL
from tritonkit.system.local_servers import default_url

Url = Annotated[str, typer.Option(help="HOST:PORT of Triton's gRPC port, or grpcs://, http:// or https://HOST:PORT.")]
TlsCa = Annotated[Path | None, typer.Option(help="CA certificate of the server (PEM); turns on TLS.")]
TlsCert = Annotated[Path | None, typer.Option(help="Client certificate (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(help="Key of the client certificate (PEM).")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is starting.")]
Deadline = Annotated[float, typer.Option(min=0.001, help="Timeout of one request in seconds.")]
PatienceOption = Annotated[float, typer.Option(min=0, help="Seconds to repeat requests while the server is away.")]
SharedMemory = Annotated[
    bool, typer.Option("--shared-memory/--no-shared-memory", help="Share memory with a server on this machine.")
]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "url": (Url, DEFAULT_URL),
    "tls_ca": (TlsCa, None),
    "tls_cert": (TlsCert, None),
    "tls_key": (TlsKey, None),
    "wait": (Wait, 0.0),
    "deadline": (Deadline, 60.0),
}
"""The type and default of each option."""
_INFER_OPTIONS: dict[str, tuple[Any, Any]] = {
    "patience": (PatienceOption, INFER_DEFAULTS["patience_s"]),
    "shared_memory": (SharedMemory, INFER_DEFAULTS["shared_memory"]),
}
_FIELDS = {"wait": "wait_s", "deadline": "deadline_s", "patience": "patience_s"}
"""Fields of `Connection` whose options have other names."""
_CONNECTION_PARAMETER = "connection"
_CONTEXT_PARAMETER = "context"


def with_connection_options(repeats_requests: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `connection`, a `Connection`, by the options of a connection.

    The command may also have a parameter `context`, a typer.Context.
    repeats_requests: whether the command sends many requests, so that retries and shared memory are useful.
    Raises InputError if one of these options is set together with `source`, because a file then answers, not a server.
    """
    options = {**_OPTIONS, **(_INFER_OPTIONS if repeats_requests else {})}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command_parameters = inspect.signature(command).parameters

        @functools.wraps(command)
        def command_with_options(context: typer.Context, **arguments: Any) -> None:
            from tritonkit.triton.connection import Connection

            if arguments.get("source") is not None:
                flags = [
                    # Of `--this/--no-this` the flag that was typed.
                    option.opts[0]
                    if context.params[option.name] or not option.secondary_opts
                    else option.secondary_opts[0]
                    for option in context.command.params
                    if option.name in options and is_set_on_command_line(context, option.name)
                ]
                if flags:
                    raise InputError(
                        f"--from answers in this process, without a server; omit {', '.join(flags)}",
                        code="option.from_server",
                    )
            connection_options = {name: arguments.pop(name) for name in options}
            if arguments.get("source") is None and not is_set_on_command_line(context, "url"):
                connection_options["url"] = default_url()
            context_argument = {_CONTEXT_PARAMETER: context} if _CONTEXT_PARAMETER in command_parameters else {}
            connection = Connection(**{_FIELDS.get(name, name): value for name, value in connection_options.items()})
            command(**arguments, **context_argument, **{_CONNECTION_PARAMETER: connection})

        # Connection is not imported at run time, so that --help stays fast.
        hints = typing.get_type_hints(command, localns={"Connection": object}, include_extras=True)
        parameters = [inspect.Parameter(_CONTEXT_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for name, parameter in command_parameters.items():
            if name == _CONTEXT_PARAMETER:
                continue
            added = options if name == _CONNECTION_PARAMETER else {name: (hints[name], parameter.default)}
            parameters += [
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for option, (annotation, default) in added.items()
            ]
        command_with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command_with_options.__annotations__ = {option.name: option.annotation for option in parameters}
        return command_with_options

    return decorate


def is_set_on_command_line(context: typer.Context, name: str) -> bool:
    """Whether an option was typed on the command line, even with its default value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
