"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from model.console import DEFAULT_URL
from model.errors import InputError
from model.local_servers import url_without_option

Url = Annotated[str, typer.Option(help="HOST:PORT of Triton's gRPC port, or grpcs://, http:// or https://HOST:PORT.")]
TlsCa = Annotated[Path | None, typer.Option(help="Who signed the server's certificate (PEM): asks by TLS.")]
TlsCert = Annotated[Path | None, typer.Option(help="The certificate to show (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is starting.")]
Deadline = Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")]
Patience = Annotated[float, typer.Option(min=0, help="Seconds to repeat requests while the server is away.")]
SharedMemory = Annotated[
    bool, typer.Option("--shared-memory/--no-shared-memory", help="Share memory with a server on this machine.")
]

_DEFAULTS = {"url": DEFAULT_URL, "tls_ca": None, "tls_cert": None, "tls_key": None, "wait": 0.0, "deadline": 60.0}
_KINDS = {"url": Url, "tls_ca": TlsCa, "tls_cert": TlsCert, "tls_key": TlsKey, "wait": Wait, "deadline": Deadline}
_TO_INFER = {"patience": (Patience, 60.0), "shared_memory": (SharedMemory, True)}
_PLACE = "connection"
_CONTEXT = "context"


def connects(many: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a connection in place of its parameter `connection`, a model.connection.Connection.

    A command may have a parameter `context` too, a typer.Context.
    many: whether it asks so much that repeating requests, and shared memory, are worth it.
    Raises InputError when any of them is given beside `source`: a file then answers, and no server.
    """
    options = {name: (_KINDS[name], default) for name, default in _DEFAULTS.items()} | (_TO_INFER if many else {})

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        asked = inspect.signature(command).parameters

        @functools.wraps(command)
        def connected(context: typer.Context, **given: Any) -> None:
            from client.connection import connection_of

            if given.get("source") is not None:
                _check_none_said(context, options)
            terms = {name: given.pop(name) for name in options}
            if given.get("source") is None and not is_said(context, "url"):
                terms["url"] = url_without_option()
            own = {_CONTEXT: context} if _CONTEXT in asked else {}
            command(**given, **own, **{_PLACE: connection_of(**terms)})

        # Connection is no name at run time: the help of a command loads no more than it must.
        hints = typing.get_type_hints(command, localns={"Connection": object}, include_extras=True)
        parameters = [inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for name, parameter in asked.items():
            if name == _CONTEXT:
                continue
            found = options if name == _PLACE else {name: (hints[name], parameter.default)}
            parameters += [
                inspect.Parameter(one, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for one, (kind, default) in found.items()
            ]
        connected.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        connected.__annotations__ = {one.name: one.annotation for one in parameters}
        return connected

    return decorated


def is_said(context: typer.Context, name: str) -> bool:
    """Whether an option's value was said on the command line, be it the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_none_said(context: typer.Context, names: Iterable[str]) -> None:
    if said := [_flag_of(context, name) for name in names if is_said(context, name)]:
        raise InputError(f"--from answers in this process, and no server is asked; leave out {', '.join(said)}")


def _flag_of(context: typer.Context, name: str) -> str:
    """An option as it was said, of `--this/--no-this` the one."""
    option = next(one for one in context.command.params if one.name == name)
    return option.opts[0] if context.params[name] or not option.secondary_opts else option.secondary_opts[0]
