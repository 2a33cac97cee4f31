"""Measures the served images per second of checkpoints, by running `builder`, `server` and `bench`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from train.export import environment_with
from tritonkit.errors import CheckFailedError, ConfigError, ExternalError, TritonkitError
from tritonkit.golden import GOLDEN_FILE

BATCH, CONCURRENCY = 8, 4
"""Images in a request, and requests in flight."""
_ERRORS = {1: CheckFailedError, 2: ConfigError}


def check_commands() -> None:
    """Raise ConfigError if a command that measures is not installed."""
    for name, extra in (("builder", "builder"), ("server", "client"), ("bench", "bench")):
        if _find(name) is None:
            raise ConfigError(
                f"there is no `{name}` command to measure with; install it with: pip install 'tritonkit[{extra}]', or "
                "use --no-serve",
                code="install.missing_command",
            )


def served_rates(
    checkpoints: Mapping[str, Path], rounds: int, window_s: float, plugins: Sequence[str], report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Serve each checkpoint as ONNX fp32 with one Triton; return images per second, measured in turns.

    Raises CheckFailedError if a verdict failed, ExternalError if Triton or a command failed.
    """
    rates: dict[str, list[float]] = {name: [] for name in checkpoints}
    with tempfile.TemporaryDirectory() as folder:
        repository, samples = Path(folder) / "repository", Path(folder) / "samples"
        for name, checkpoint in checkpoints.items():
            report(f"exporting {checkpoint}")
            options = ("--name", name, "--repository", repository, "--max-batch", BATCH, "--no-encoded")
            artifact = Path(_run(plugins, "builder", "export", checkpoint, *options)["artifact"])
            # With the images but without the artifact, `bench run` does not measure the limit in process.
            (samples / name / artifact.parent.name).mkdir(parents=True)
            shutil.copy(artifact.with_name(GOLDEN_FILE), samples / name / artifact.parent.name)
        http, grpc, metrics = _free_ports()
        ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
        down = partial(_run, plugins, "server", "down", "--grpc-port", grpc)
        try:
            report("starting Triton")
            _run(plugins, "server", "up", "--repository", repository, *ports)
            load = ("--batch", BATCH, "--concurrency", CONCURRENCY, "--window-s", window_s, "--max-windows", 6)
            target = ("--url", f"127.0.0.1:{grpc}", "--repository", samples)
            for number in range(rounds):
                for name in list(checkpoints)[:: -1 if number % 2 else 1]:
                    report(f"measuring, round {number + 1} of {rounds}: {name}")
                    (level,) = _run(plugins, "bench", "run", name, *target, *load)["levels"]
                    rates[name].append(round(level["images_per_s"], 1))
        except BaseException:
            with suppress(TritonkitError):  # the first error is shown
                down()
            raise
        down()
    return rates


def _find(name: str) -> str | None:
    installed = Path(sys.executable).with_name(name)
    return str(installed) if installed.is_file() else shutil.which(name)


def _run(plugins: Sequence[str], name: str, *arguments: object) -> Any:
    """Run a command of tritonkit and return its JSON document. Raises the error that it reports."""
    command = [str(_find(name)), *map(str, arguments), "--json"]
    process = subprocess.run(  # noqa: S603 - our own command
        command, env=environment_with(plugins), capture_output=True, text=True, check=False
    )
    if process.returncode == 0:
        return json.loads(process.stdout)
    try:
        reason = json.loads(process.stdout)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = process.stderr.strip() or f"exit code {process.returncode}"
    error = _ERRORS.get(process.returncode, ExternalError)
    raise error(f"`{name} {arguments[0]}` failed: {reason}", code="compress.not_served")


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
