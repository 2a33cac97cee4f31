"""Access to the Docker engine through Docker's SDK."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from tritonkit.errors import TritonkitError

Docker = tuple[ModuleType, Any]
"""The SDK module and its client."""


def docker_engine(error_class: type[TritonkitError], needed_for: str, alternative: str) -> Docker:
    """Connect to the Docker engine; return the SDK and its client.

    error_class: the error to raise. needed_for: what needs Docker. alternative: what to do without Docker.
    """
    try:
        docker = importlib.import_module("docker")
    except ModuleNotFoundError as error:
        raise error_class(
            f"{needed_for} needs Docker's SDK; install it with: pip install 'tritonkit[container]'",
            code="docker.no_sdk",
        ) from error
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise error_class(
            f"no Docker daemon answers at {host} ({error}). Start it, join the group `docker`, or set DOCKER_HOST; "
            f"{alternative}",
            code="docker.unreachable",
        ) from error
    return docker, client


def all_gpus(docker: ModuleType) -> list[Any]:
    """Return the device request of `docker run --gpus all`."""
    return [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])]


def run_container(docker: Docker, image: str, command: Sequence[str], **settings: Any) -> Any:
    """Start a container as `docker run --detach` does; a missing image is pulled.

    Unlike the SDK's `run`, it removes a container that could not be started. settings: arguments of the SDK's
    `containers.create`. Raises DockerException, and OSError if the connection to the engine is lost.
    """
    module, client = docker
    try:
        container = client.containers.create(image, command, **settings)
    except module.errors.ImageNotFound:
        client.images.pull(image)
        container = client.containers.create(image, command, **settings)
    try:
        container.start()
    except BaseException:
        remove_container(docker, container)
        raise
    return container


def remove_container(docker: Docker, container: Any) -> None:
    """Stop and remove a container. Errors are ignored: they must not hide the container's result."""
    with suppress(docker[0].errors.DockerException, OSError):
        container.remove(force=True, v=True)
