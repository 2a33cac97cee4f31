"""The docker runtime: `tritonserver` in a container with the same restrictions as in docker-compose.yml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from server.options import Options, triton_arguments
from server.runtimes.base import ProgressCallback, Runtime, Server
from server.runtimes.docker_image import TritonImages, translate_docker_errors
from tritonkit.errors import InputError, ServerError
from tritonkit.system.docker_engine import Docker, all_gpus, docker_engine, run_container
from tritonkit.system.env_file import setting
from tritonkit.system.files import atomic_write
from tritonkit.triton.connection import RequestTokens

LABEL = "tritonkit"
"""Label of every container: `docker ps --filter label=tritonkit=server` lists them."""
_NETWORK_VARIABLE = "TRITON_NETWORK"
SHM_VARIABLE = "SHM_SIZE"
DEFAULT_SHM_SIZE = "1gb"
"""Shared memory of tritonkit's containers, unless `.env` sets it; in Docker's notation."""
_HOST_NETWORK = "host"
_COMPOSE_NETWORK = "tritonkit"
"""The default network of Compose. It does not exist before Compose ran."""
_MODELS_MOUNT, _TLS_MOUNT = "/models", "/tls"
_CONTAINER_USER = 1000
"""The user `triton-server` of NVIDIA's image, used when root starts the server."""
_STOP_TIMEOUT_S = 30
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?/?$")


class DockerRuntime(Runtime):
    """Runs Triton in a container of the local Docker engine; DOCKER_HOST may name its socket."""

    poll_interval_s = 2.0

    def launch(
        self, options: Options, tokens: RequestTokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Pull or build the image if it is missing, and start a container.

        Raises InputError for files that the user in the container cannot read, ServerError when Docker fails.
        """
        with _open_engine() as docker:
            with translate_docker_errors(docker[0], "describe itself"):
                gpu = has_gpu(docker[1].info())
            network = select_network(docker, options)
            image = TritonImages(docker, network == _HOST_NETWORK, report).prepare(options, gpu)
            options = options.model_copy(update={"image": image})
            settings = container_settings(options, tokens, network)
            toolkit = "install the NVIDIA Container Toolkit, or check the output of `docker run --gpus all`"
            module, client = docker
            with translate_docker_errors(module, f"run {options.image}", toolkit if gpu else ""):
                try:  # an ended container of tritonkit may still have this name
                    ended = client.containers.get(settings["name"])
                    if ended.labels.get(LABEL) == "server" and ended.status in ("created", "exited", "dead"):
                        ended.remove(force=True, v=True)
                except module.errors.NotFound:
                    pass
                gpus = all_gpus(module) if gpu else None
                container = run_container(docker, str(options.image), **settings, device_requests=gpus)
        server = Server(options=options, tokens=tokens, container=str(container.id))
        if stops_with_parent:
            try:
                start_guard(server.container)
            except BaseException:
                self.stop(server)  # without a guard it would outlive this process
                raise
        return server

    def is_alive(self, server: Server) -> bool:
        """Whether the container runs. Raises ServerError when the engine does not answer."""
        with _open_container(server) as container:
            return container is not None and container.status in ("running", "restarting")

    def enable_restarts(self, server: Server) -> None:
        """Set the restart policy of the container; not earlier, because wrong settings would restart it without end."""
        with _open_container(server) as container:
            if container is not None:
                container.update(restart_policy={"Name": "on-failure"})

    def restart_count(self, server: Server) -> int:
        """Return the restart count of the engine."""
        with _open_container(server) as container:
            return int(container.attrs.get("RestartCount", 0)) if container is not None else 0

    def stop(self, server: Server) -> None:
        """Stop and remove the container."""
        with _open_container(server) as container:
            if container is not None:
                container.stop(timeout=_STOP_TIMEOUT_S)
                container.remove(force=True, v=True)

    def save_log(self, server: Server) -> None:
        """Write the container's log into the state folder, with the time of its last line as file time."""
        with _open_container(server) as container:
            if container is not None:
                last_line, content = container.logs(tail=1, timestamps=True), container.logs()
                if not server.log.is_file() or server.log.read_bytes() != content:
                    with atomic_write(server.log) as path:
                        path.write_bytes(content)
                if fields := last_line.split():
                    written = datetime.fromisoformat(fields[0].decode()).timestamp()
                    os.utime(server.log, (written, written))


def engine_has_gpu() -> bool:
    """Whether the local engine gives NVIDIA GPUs to containers. Raises ServerError or InputError."""
    with _open_engine() as (module, client), translate_docker_errors(module, "describe itself"):
        return has_gpu(client.info())


def has_gpu(info: dict[str, Any]) -> bool:
    """Whether an engine gives NVIDIA GPUs to containers. info: the document of `docker info`."""
    discovered = (str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ())
    return "nvidia" in (info.get("Runtimes") or {}) or any(name.startswith("nvidia.com/gpu") for name in discovered)


def container_settings(options: Options, tokens: RequestTokens, network: str | None) -> dict[str, Any]:
    """Return the arguments of `containers.create` of Docker's SDK, without image and GPUs.

    options: with an absolute repository. network: None is the engine's default. Raises InputError for a file that the
    user in the container cannot read.
    """
    user, group = (_CONTAINER_USER, _CONTAINER_USER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    files = options.security.files()
    _check_readable(user, [options.repository, *files.values()], key=options.security.tls_key)
    mounted = {name: f"{_TLS_MOUNT}/{name}.pem" for name in files}
    security = {name: Path(container_path) for name, container_path in mounted.items()}
    arguments = triton_arguments(
        options.model_copy(update={"security": options.security.model_copy(update=security)}),
        tokens,
        _MODELS_MOUNT,
        bind=None if network == _HOST_NETWORK else "0.0.0.0",  # noqa: S104
    )
    published = {f"{port}/tcp": (host, port) for host, port in options.bind_addresses.values()}
    return {
        "command": ["tritonserver", *arguments],
        "name": f"tritonkit-{options.grpc_port}",
        "labels": {
            LABEL: "server",
            f"{LABEL}.repository": str(options.repository),
            f"{LABEL}.grpc-port": str(options.grpc_port),
        },
        "user": f"{user}:{group}",
        "read_only": True,
        "tmpfs": {"/tmp": ""},  # noqa: S108 - in the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "shm_size": setting(SHM_VARIABLE, options.repository) or DEFAULT_SHM_SIZE,
        "volumes": {
            str(options.repository): {"bind": _MODELS_MOUNT, "mode": "ro"},
            **{str(path): {"bind": mounted[name], "mode": "ro"} for name, path in files.items()},
        },
        **({"network_mode": _HOST_NETWORK} if network == _HOST_NETWORK else {"ports": published}),
        **({"network": network} if network not in (None, _HOST_NETWORK) else {}),
    }


@contextmanager
def _open_engine() -> Iterator[Docker]:
    # Ports, files and shared memory are checked on this machine.
    docker_host = os.environ.get("DOCKER_HOST", "")
    scheme, _, address = docker_host.partition("://")
    if scheme in ("ssh", "tcp", "http", "https") and not _LOOPBACK.match(address):
        raise InputError(
            f"DOCKER_HOST={docker_host}: --runtime docker needs a local Docker engine; run `server up` on that "
            "machine, or unset DOCKER_HOST",
            code="docker.remote_engine",
        )
    docker = docker_engine(
        ServerError, needed_for="--runtime docker", alternative="without Docker there is --runtime pip, for CPUs"
    )
    try:
        yield docker
    finally:
        docker[1].close()


def select_network(docker: Docker, options: Options) -> str | None:
    """Return the network of `.env`; None (the engine's default) if none is set or Compose's does not exist yet.

    Raises InputError for any other network that does not exist.
    """
    name = setting(_NETWORK_VARIABLE, options.repository)
    if name in (None, _HOST_NETWORK):
        return name
    with translate_docker_errors(docker[0], "list its networks"):
        existing = sorted(network.name for network in docker[1].networks.list())
    if name in existing:
        return name
    if name == _COMPOSE_NETWORK:
        return None
    raise InputError(
        f"{_NETWORK_VARIABLE}={name}: Docker has no network with this name; it has: {', '.join(existing) or 'none'}. "
        f"Use one of these, or create it: docker network create {name}",
        code="docker.no_network",
    )


@contextmanager
def _open_container(server: Server) -> Iterator[Any]:
    """Yield the container of the server, or None if it does not exist. Raises ServerError."""
    with (
        _open_engine() as (module, client),
        translate_docker_errors(module, f"manage the container {server.container[:12]}"),
    ):
        try:
            container = client.containers.get(server.container)
        except module.errors.NotFound:
            container = None
        yield container


def _check_readable(user: int, paths: list[Path], key: Path | None) -> None:
    """Raise InputError for the first file or folder that the user in the container cannot read."""
    if user == os.geteuid():
        return
    for root in paths:
        for path in (root, *(root.rglob("*") if root.is_dir() else ())):
            status = path.stat()
            needed = 0o5 if path.is_dir() else 0o4
            if status.st_uid != user and status.st_mode & needed != needed:
                advice = f"chown {user} {key} && chmod 400 {key}" if path == key else f"chmod -R o+rX {root}"
                raise InputError(
                    f"{path}: user {user}, who runs Triton in the container, cannot read it; run: {advice}",
                    code="docker.unreadable_file",
                )


def start_guard(container: str) -> None:
    """Start a process that removes the container when this process ends, even by SIGKILL."""
    guard = subprocess.Popen(
        # -P: do not import a folder `server` of the working folder
        [sys.executable, "-P", "-m", "server.runtimes.docker_guard", container],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    _GUARDS.append(guard)


_GUARDS: list[subprocess.Popen[bytes]] = []
"""The stdin of each guard closes when this process ends."""
