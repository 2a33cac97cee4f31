"""The table of runtimes: which class starts and stops a server."""

from __future__ import annotations

from server.options import RuntimeName
from server.runtimes.base import Runtime, Server
from server.runtimes.docker_runtime import DockerRuntime
from server.runtimes.pip_runtime import PipRuntime

RUNTIMES: dict[RuntimeName, type[Runtime]] = {"pip": PipRuntime, "docker": DockerRuntime}


def runtime_of(server: Server) -> Runtime:
    """Return the runtime that started a server and can stop it."""
    return RUNTIMES[server.options.runtime]()
