"""Removes a container when the process that started it ends: `python -m server.docker_guard ID`, a pipe as stdin."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from model.docker_engine import docker_engine
from model.errors import ServerError
from server.docker_image import engine_asked


def guard(container: str) -> None:
    """Wait until the other end of standard input is gone, then stop and remove the container, if it is still there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    docker, client = docker_engine(ServerError, "--foreground", "remove the container by hand")
    with engine_asked(docker, f"remove the container {container[:12]}"), suppress(docker.errors.NotFound):
        found = client.containers.get(container)
        found.stop(timeout=30)
        found.remove(force=True, v=True)


if __name__ == "__main__":
    guard(sys.argv[1])
