"""A Triton from the pip wheel in explicit model control mode, with a plain HTTP client that starts no threads.

A process that forks must not have running threads, and the gRPC and HTTP clients of `tritonclient` start some.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.ports import free_ports
from server.runtimes.pip_environment import find_pip_environment
from tritonkit.errors import InferenceError, ServerError
from tritonkit.images.preprocess import ImageArray

_PR_SET_PDEATHSIG = 1
_READY_S = 60.0


class ExplicitTriton:
    """A running server. A refused request raises InferenceError with the server's message."""

    def __init__(self, repository: Path, port: int) -> None:
        self.repository = repository
        self._address = f"http://127.0.0.1:{port}/v2"

    def load(self, model: str) -> None:
        """Load a model, or reload it if its files have changed."""
        self._post(f"repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """Unload a model."""
        self._post(f"repository/models/{model}/unload", {})

    def infer(self, model: str, images: ImageArray) -> tuple[int, NDArray[np.float32]]:
        """Send uint8 images [N, H, W, 3]; return the version that answered and its first output [N, ...]."""
        tensor = {"name": "image", "datatype": "UINT8", "shape": images.shape, "data": images.ravel().tolist()}
        answer = self._post(f"models/{model}/infer", {"inputs": [tensor]})
        output = answer["outputs"][0]
        return int(answer["model_version"]), np.array(output["data"], dtype=np.float32).reshape(output["shape"])

    def is_ready(self) -> bool:
        """Whether the server is ready."""
        try:
            with urllib.request.urlopen(f"{self._address}/health/ready", timeout=2) as answer:  # noqa: S310 - http
                return bool(answer.status == 200)
        except OSError:
            return False

    def _post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(document).encode()
        try:
            with urllib.request.urlopen(f"{self._address}/{path}", body, timeout=60) as answer:  # noqa: S310 - http
                response: dict[str, Any] = json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise InferenceError(
                f"Triton refused {path}: {error.read().decode(errors='replace')}", code="inference.refused"
            ) from error
        except OSError as error:
            raise InferenceError(f"Triton does not answer {path}: {error}", code="server.unreachable") from error
        return response


@contextmanager
def explicit_triton(repository: Path, folder: Path) -> Iterator[ExplicitTriton]:
    """Start a server without loaded models; `folder` gets its backends and log. Raises ServerError."""
    runtime = find_pip_environment()
    runtime.copy_backends(folder / "backends")
    http, grpc, metrics = free_ports()
    arguments = {
        "model-repository": repository,
        "backend-directory": folder / "backends",
        "model-control-mode": "explicit",
        **{f"{kind}-address": "127.0.0.1" for kind in ("http", "grpc", "metrics")},
        "http-port": http,
        "grpc-port": grpc,
        "metrics-port": metrics,
        "exit-timeout-secs": 5,
    }
    prctl = ctypes.CDLL(None).prctl
    log = folder / "triton.log"
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [str(runtime.binary), *(f"--{name}={value}" for name, value in arguments.items())],
            env=runtime.environment(),
            cwd=folder,  # Triton's Python stubs import `model` from here
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    triton = ExplicitTriton(repository, http)
    try:
        _wait_until_ready(triton, process, log)
        yield triton
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(triton: ExplicitTriton, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while not triton.is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log_tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ServerError(f"Triton did not start:\n{log_tail}", code="server.start_failed")
        time.sleep(0.1)
