"""The docker runtime: `tritonserver` in a container that was closed as docker-compose.yml closes it."""

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

from model.docker_engine import Docker, all_gpus, docker_engine, run_container
from model.env_file import setting
from model.errors import InputError, ServerError
from model.files import atomic_write
from server.docker_image import Images, engine_asked
from server.options import Options, triton_arguments
from server.runtime import ProgressCallback, Runtime, Server
from server.security import Security, Tokens

LABEL = "tritonkit"
"""On every container: `docker ps --filter label=tritonkit=server` lists them."""
_NETWORK_VARIABLE, _SHM_VARIABLE = "TRITON_NETWORK", "SHM_SIZE"
_HOST = "host"
_COMPOSE_NETWORK = "tritonkit"
"""What Compose makes where no other is named: it is not there before Compose has run."""
_DEFAULT_SHM = "1gb"
_MODELS, _TLS = "/models", "/tls"
_USER = 1000
"""NVIDIA's `triton-server`, taken where root starts the server."""
_STOP_TIMEOUT_S = 30
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?/?$")


class DockerRuntime(Runtime):
    """Triton in a container of this machine's engine, whose socket DOCKER_HOST may name."""

    poll_s = 2.0

    def launch(
        self, options: Options, tokens: Tokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Pull or build the image where it is missing, and run it.

        Raises InputError for files that the container's user cannot read, ServerError for what Docker cannot.
        """
        with _engine() as docker:
            with engine_asked(docker[0], "tell about itself"):
                gpu = has_gpu(docker[1].info())
            network = network_for(docker, options)
            image = Images(docker, network == _HOST, report).for_serving(options, gpu)
            options = options.model_copy(update={"image": image})
            container = _run(docker, options, tokens, network, gpu)
        server = Server(options=options, tokens=tokens, container=container)
        if stops_with_parent:
            try:
                _stop_with_this_process(container)
            except BaseException:
                self.end(server)  # a container that nobody remembers could not be stopped
                raise
        return server

    def is_alive(self, server: Server) -> bool:
        """Whether the container runs. Raises ServerError where no engine answers: it may run all the same."""
        with _container(server) as container:
            return container is not None and container.status in ("running", "restarting")

    def keep(self, server: Server) -> None:
        """Have the engine do it, with growing pauses; not after `end`, and not before: settings may be wrong."""
        with _container(server) as container:
            if container is not None:
                container.update(restart_policy={"Name": "on-failure"})

    def restarts(self, server: Server) -> int:
        """What the engine counted."""
        with _container(server) as container:
            return int(container.attrs.get("RestartCount", 0)) if container is not None else 0

    def end(self, server: Server) -> None:
        """Stop the container and remove it."""
        with _container(server) as container:
            if container is not None:
                container.stop(timeout=_STOP_TIMEOUT_S)
                container.remove(force=True, v=True)

    def save_log(self, server: Server) -> None:
        """Bring what the container has printed into the server's state folder, as old as its last line."""
        with _container(server) as container:
            if container is not None:
                last = container.logs(tail=1, timestamps=True)
                _save(container.logs(), last, server.log)


def engine_has_gpu() -> bool:
    """Whether the engine gives containers NVIDIA GPUs. Raises ServerError where none answers, InputError."""
    with _engine() as (module, client), engine_asked(module, "tell about itself"):
        return has_gpu(client.info())


def has_gpu(info: dict[str, Any]) -> bool:
    """Whether an engine gives containers NVIDIA GPUs. info: what `docker info` tells, as a document."""
    discovered = (str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ())
    return "nvidia" in (info.get("Runtimes") or {}) or any(name.startswith("nvidia.com/gpu") for name in discovered)


def container_settings(options: Options, tokens: Tokens, network: str | None) -> dict[str, Any]:
    """What `docker run` is told, in the words of Docker's SDK, without image and GPUs.

    options: with an absolute repository. network: None is the engine's own. Raises InputError for a file that the
    user in the container cannot read.
    """
    user, group = (_USER, _USER) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    security, files = _security_inside(options.security)
    _check_readable(user, [options.repository, *files], key=options.security.tls_key)
    arguments = triton_arguments(
        options.model_copy(update={"security": security}),
        tokens,
        _MODELS,
        bind=None if network == _HOST else "0.0.0.0",  # noqa: S104
    )
    published = {f"{port}/tcp": (host, port) for host, port in options.bound.values()}
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
        "shm_size": setting(_SHM_VARIABLE, options.repository) or _DEFAULT_SHM,
        "volumes": {
            str(options.repository): {"bind": _MODELS, "mode": "ro"},
            **{str(here): {"bind": there, "mode": "ro"} for here, there in files.items()},
        },
        **({"network_mode": _HOST} if network == _HOST else {"ports": published}),
        **({"network": network} if network not in (None, _HOST) else {}),
    }


def _run(docker: Docker, options: Options, tokens: Tokens, network: str | None, gpu: bool) -> str:
    """The id of a container that was started; one that failed to start is gone again."""
    module, _ = docker
    settings = container_settings(options, tokens, network)
    advice = "install the NVIDIA Container Toolkit, or see what `docker run --gpus all` says" if gpu else ""
    with engine_asked(module, f"run {options.image}", advice):
        _remove_ended(docker, settings["name"])
        gpus = all_gpus(module) if gpu else None
        container = run_container(docker, str(options.image), **settings, device_requests=gpus)
    return str(container.id)


def _remove_ended(docker: Docker, name: str) -> None:
    """A container of ours that has ended, and that no state folder remembers, would keep its name."""
    module, client = docker
    try:
        left = client.containers.get(name)
    except module.errors.NotFound:
        return
    if left.labels.get(LABEL) == "server" and left.status in ("created", "exited", "dead"):
        left.remove(force=True, v=True)


@contextmanager
def _engine() -> Iterator[Docker]:
    _check_engine_is_here()
    docker = docker_engine(
        ServerError, needed_for="--runtime docker", alternative="without Docker there is --runtime pip, for CPUs"
    )
    try:
        yield docker
    finally:
        docker[1].close()


def network_for(docker: Docker, options: Options) -> str | None:
    """The network of `.env`; None, the engine's own, where it names none, or Compose has not yet made its own.

    Raises InputError for another that is not there.
    """
    name = setting(_NETWORK_VARIABLE, options.repository)
    if name in (None, _HOST):
        return name
    with engine_asked(docker[0], "list its networks"):
        there = sorted(one.name for one in docker[1].networks.list())
    if name in there:
        return name
    if name == _COMPOSE_NETWORK:
        return None
    raise InputError(
        f"{_NETWORK_VARIABLE}={name}: Docker has no network of that name; it has: {', '.join(there) or 'none'}. Name "
        f"one of them, or make it: docker compose up does, and docker network create {name}"
    )


def _check_engine_is_here() -> None:
    """Raises InputError: ports, files and shared memory are looked at on this machine, and would be of another."""
    named = os.environ.get("DOCKER_HOST", "")
    scheme, _, where = named.partition("://")
    if scheme in ("ssh", "tcp", "http", "https") and not _LOOPBACK.match(where):
        raise InputError(
            f"DOCKER_HOST={named}: --runtime docker serves on this machine alone; run `server up` on that one, or "
            "unset DOCKER_HOST"
        )


@contextmanager
def _container(server: Server) -> Iterator[Any]:
    """The server's container, None when it is gone. Raises ServerError."""
    with _engine() as (module, client), engine_asked(module, f"manage the container {server.container[:12]}"):
        try:
            container = client.containers.get(server.container)
        except module.errors.NotFound:
            container = None
        yield container


def _security_inside(security: Security) -> tuple[Security, dict[Path, str]]:
    """The same with files as the container sees them, and by file of this machine where it is seen."""
    files = {"tls_certificate": security.tls_certificate, "tls_key": security.tls_key, "tls_ca": security.tls_ca}
    seen = {name: f"{_TLS}/{name}.pem" for name, path in files.items() if path is not None}
    inside = security.model_copy(update={name: Path(there) for name, there in seen.items()})
    return inside, {path: seen[name] for name, path in files.items() if path is not None}


def _save(printed: bytes, last: bytes, log: Path) -> None:
    """Write a log that has changed, and give it the time of its last line, which is how it came from the engine."""
    if not log.is_file() or log.read_bytes() != printed:
        with atomic_write(log) as path:
            path.write_bytes(printed)
    if told := last.split():
        written = datetime.fromisoformat(told[0].decode()).timestamp()
        os.utime(log, (written, written))


def _check_readable(user: int, paths: list[Path], key: Path | None) -> None:
    """Raises InputError for the first file or folder that another user could not read."""
    if user == os.geteuid():
        return
    for root in paths:
        for path in (root, *(root.rglob("*") if root.is_dir() else ())):
            status = path.stat()
            needed = 0o5 if path.is_dir() else 0o4
            if status.st_uid != user and status.st_mode & needed != needed:
                advice = f"chown {user} {key} && chmod 400 {key}" if path == key else f"chmod -R o+rX {root}"
                raise InputError(
                    f"{path}: user {user}, as whom Triton runs in the container, cannot read it; let it with: {advice}"
                )


def _stop_with_this_process(container: str) -> None:
    """Have a process wait for the end of this one, however it ends, and remove the container then."""
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "server.docker_guard", container],  # -P: a folder `model` here is not ours
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    _GUARDS.append(guard)


_GUARDS: list[subprocess.Popen[bytes]] = []
"""Their standard input closes when this process ends."""
