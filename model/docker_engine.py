"""The Docker engine that this machine's settings name, through Docker's own SDK."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

from model.errors import TritonkitError

Docker = tuple[ModuleType, Any]
"""The SDK and a client of it."""


def docker_engine(refusal: type[TritonkitError], needed_for: str, otherwise: str) -> Docker:
    """The SDK and a client whose engine answers.

    refusal: the error to raise with what to do; needed_for: who needs Docker; otherwise: the way without it.
    """
    try:
        docker = importlib.import_module("docker")
    except ModuleNotFoundError as error:
        raise refusal(
            f"{needed_for} needs Docker's SDK; install it with: pip install 'tritonkit[container]'"
        ) from error
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise refusal(
            f"no Docker daemon answers at {where} ({error}). Start it, be a member of the group `docker`, or set "
            f"DOCKER_HOST; {otherwise}"
        ) from error
    return docker, client


def all_gpus(docker: ModuleType) -> list[Any]:
    """The request for all GPUs: `docker run --gpus all`."""
    return [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])]
