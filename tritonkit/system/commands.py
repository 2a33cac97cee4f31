"""Runs tritonkit's other commands as processes: a command that needs what another one does shares files, not calls."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tritonkit.errors import CheckFailedError, ExternalError, InputError, Problem, TritonkitError

_EXTRAS = {"server": "client", "bench": "bench", "builder": "builder"}
"""The extra of tritonkit that a command needs."""
_ERRORS: dict[int, type[TritonkitError]] = {1: CheckFailedError, 2: InputError}
"""The class of an error by the command's exit code; ExternalError for any other."""


def find_command(name: str) -> str | None:
    """Return the path of a command of this installation, else of PATH; None without one."""
    installed = Path(sys.executable).with_name(name)
    return str(installed) if installed.is_file() else shutil.which(name)


def check_commands(*names: str, advice: str = "") -> None:
    """Raise InputError that lists the commands that are not installed. advice: what else the user can do."""
    if missing := [name for name in names if find_command(name) is None]:
        commands = ", ".join(f"`{name}`" for name in missing)
        extras = ",".join(dict.fromkeys(_EXTRAS[name] for name in missing))
        raise InputError(
            f"there is no {commands} command to measure with; install it with: pip install 'tritonkit[{extras}]'"
            f"{advice}",
            code="install.missing_command",
        )


def run_command(name: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run a command with `--json` and return its document.

    environment: of the process; None is that of this one. Raises the error that the command reports, with its code
    and its list of problems. It is a CheckFailedError for exit code 1, InputError for 2, ExternalError for any other.
    """
    command = [str(find_command(name)), *map(str, arguments), "--json"]
    process = subprocess.run(  # noqa: S603 - our own command
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if process.returncode == 0:
        return json.loads(process.stdout)
    error_class, failed = _ERRORS.get(process.returncode, ExternalError), f"`{name} {arguments[0]}` failed"
    try:
        reported = json.loads(process.stdout)["error"]
        reason, code = reported["message"], reported["code"]
        problems = [Problem(**problem) for problem in reported.get("problems", ())]
    except (ValueError, KeyError, TypeError) as error:
        reason = process.stderr.strip() or f"exit code {process.returncode}"
        raise error_class(f"{failed}: {reason}", code="command.failed") from error
    raise error_class(f"{failed}: {reason}", code=code, problems=problems)


@contextmanager
def serving(repository: Path, *options: object, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Serve a repository with `server up` on free ports while the block runs; yield the gRPC port.

    options: of `server up`. Raises the error of the command; the server is stopped then, and also by Ctrl-C.
    """
    http, grpc, metrics = free_ports()
    ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
    down = partial(run_command, "server", "down", "--grpc-port", grpc, environment=environment)
    try:
        run_command("server", "up", "--repository", repository, *ports, *options, environment=environment)
        yield grpc
    except BaseException:
        with suppress(TritonkitError):  # the first error is shown
            down()
        raise
    down()


def free_ports(count: int = 3) -> list[int]:
    """Return different ports of the loopback address that nothing listens on now; another process may take one."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
