"""The Docker engine that this machine's settings name, through Docker's own SDK."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from model.errors import TritonkitError

Docker = tuple[ModuleType, Any]
"""The SDK and a client of it."""


def docker_engine(error_class: type[TritonkitError], needed_for: str, alternative: str) -> Docker:
    """The SDK and a client whose engine answers.

    refusal: the error to raise with what to do; needed_for: who needs Docker; otherwise: the way without it.
    """
    try:
        docker = importlib.import_module("docker")
    except ModuleNotFoundError as error:
        raise error_class(
            f"{needed_for} needs Docker's SDK; install it with: pip install 'tritonkit[container]'"
        ) from error
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise error_class(
            f"no Docker daemon answers at {where} ({error}). Start it, be a member of the group `docker`, or set "
            f"DOCKER_HOST; {alternative}"
        ) from error
    return docker, client


def all_gpus(docker: ModuleType) -> list[Any]:
    """The request for all GPUs: `docker run --gpus all`."""
    return [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])]


def run_container(docker: Docker, image: str, command: Sequence[str], **settings: Any) -> Any:
    """A container that runs, as `docker run --detach` gives it; an image that is not here is fetched.

    The SDK's own `run` leaves a container behind that was made and could not be started; here it is gone again.
    settings: in the words of the SDK's `containers.create`. Raises DockerException, and OSError where the engine is
    lost.
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
    """End and remove a container. What was learned of it counts more than an engine that cannot do so."""
    with suppress(docker[0].errors.DockerException, OSError):
        container.remove(force=True, v=True)
