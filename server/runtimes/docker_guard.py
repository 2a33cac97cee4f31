"""Removes a container when its parent process ends: `python -m server.runtimes.docker_guard ID`, stdin is a pipe."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from server.runtimes.docker_image import translate_docker_errors
from tritonkit.errors import ServerError
from tritonkit.system.docker_engine import docker_engine


def guard(container_id: str) -> None:
    """Wait until stdin is closed, then stop and remove the container if it still exists."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    docker, client = docker_engine(ServerError, "--foreground", "remove the container by hand")
    with translate_docker_errors(docker, f"remove the container {container_id[:12]}"), suppress(docker.errors.NotFound):
        running = client.containers.get(container_id)
        running.stop(timeout=30)
        running.remove(force=True, v=True)


if __name__ == "__main__":
    guard(sys.argv[1])
