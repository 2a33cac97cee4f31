"""Triton's trace of live requests: their inputs and outputs, sampled by the server and written to files.

Triton can trace the tensors of every Nth request of one model (the setting `trace_level` TENSORS), with no change for
the callers. It writes a file for each traced request after the request was answered. The settings of a model can be
changed at any time, and a maximum number of traces can be set: if this program is killed, the server stops by itself.

Format: triton-inference-server/server, src/tracer.cc and docs/user_guide/trace.md. The file is no valid JSON, because
Triton (24.10) writes each value of a UINT8 tensor as one raw byte, and bytes are separated by commas.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import InputError
from tritonkit.spec import ModelSpec, Outputs, TensorSpec
from tritonkit.system.console import warn
from tritonkit.triton.client import TritonClient

MAX_PENDING = 64
"""Traces that Triton writes before it waits for this program, so that neither falls behind."""
REPEATED = "tritonkit-shadow"
"""The id of requests that this program sends to the served version, so that they are not mirrored in turn."""
_SETTLED_S = 2.0
"""A file that is older and still incomplete stays so."""
_HEADER = re.compile(rb'"model_version":(\d+)(?:,"request_id":"([^"]*)")?')
_ENDS = (b"}]}]", b"}}]")
"""How a complete file ends; no tensor contains these, because a comma follows each of its bytes."""


class LiveRequest(NamedTuple):
    """A request that the server has answered."""

    version: str
    """The version that answered it."""
    images: NDArray[np.uint8]
    """[N, H, W, 3]."""
    outputs: Outputs | None
    """With six digits of floating-point values. None if Triton did not trace them: it loses those that a backend sends
    after it has released the request, as the backends of the pip runtime do for large batches."""
    request_id: str = ""


def parse_trace(data: bytes, spec: ModelSpec) -> LiveRequest:
    """Read a trace file of one request. Raises ValueError if it is incomplete."""
    header = _HEADER.search(data)
    if header is None or not data.endswith(_ENDS):
        raise ValueError("the trace has no model_version, or no end")
    images = _tensor(data, "TENSOR_QUEUE_INPUT", spec.input)
    outputs = None
    if b'"activity":"TENSOR_BACKEND_OUTPUT"' in data:
        outputs = {output.name: _tensor(data, "TENSOR_BACKEND_OUTPUT", output) for output in spec.outputs}
    return LiveRequest(header[1].decode(), images, outputs, (header[2] or b"").decode(errors="replace"))


def _tensor(data: bytes, activity: str, tensor: TensorSpec) -> NDArray[Any]:
    """Read one tensor, [N, ...]. Raises ValueError."""
    # A tensor cannot contain this text: a comma follows each of its bytes.
    marker = f'"activity":"{activity}","tensor":{{"name":"{tensor.name}","data":"'.encode()
    place = data.find(marker)
    if place < 0:
        raise ValueError(f"the trace has no {activity} {tensor.name}")
    start = place + len(marker)
    if tensor.dtype == "UINT8":
        size = int(np.prod(tensor.shape))
        dims = ",".join(map(str, tensor.shape))
        for count in range(1, (len(data) - start) // (2 * size) + 1):
            end = start + 2 * count * size - 1
            if data.startswith(f'","shape":"{count},{dims}"'.encode(), end):
                raw: NDArray[np.uint8] = np.frombuffer(data[start:end:2], dtype=np.uint8)
                return raw.reshape(count, *tensor.shape)
    end = data.index(b'"', start)
    values = np.array(data[start:end].split(b",")).astype(np.uint8 if tensor.dtype == "UINT8" else np.float32)
    return values.reshape(-1, *tensor.shape)


class LiveTrace:
    """Traces a share of the requests of one model while it is open, and restores the server's settings."""

    def __init__(self, server: TritonClient, model: str, share: float, file: Path | None) -> None:
        """Read the settings of the server.

        share: of the requests, in 0..1. file: the trace file as this process sees it; None takes the server's path.
        Raises InputError if the server has no trace file, or its requests are traced already; InferenceError.
        """
        self._server, self._model = server, model
        self._before = server.trace_settings(model)
        served_file = self._before.get("trace_file", "")
        if not served_file or self._before.get("trace_mode", "triton") != "triton":
            raise InputError(
                f"{server.url}: was started without a trace file, so its live requests cannot be mirrored. `server up` "
                "sets one; start another Triton with --trace-config triton,file=FOLDER/trace.json",
                code="shadow.no_trace_file",
            )
        if self._before.get("trace_level", "OFF") != "OFF":
            raise InputError(
                f"{server.url}: requests to {model} are traced already (trace_level {self._before['trace_level']}). "
                "Wait until another `client shadow` ends, or set the trace_level of the model to OFF",
                code="shadow.traced_already",
            )
        self._file = file or Path(served_file)
        if not self._file.parent.is_dir():
            raise InputError(
                f"{self._file.parent}: no such folder on this machine; the server writes the traces of live requests "
                f"there. Run the command on the server's machine, or set --trace-file to {self._file.name} where this "
                "machine sees it",
                code="shadow.trace_folder",
            )
        self._rate = max(1, round(1 / share))
        self._known = {(path, path.stat().st_mtime_ns) for path in self._paths()}
        self.unreadable = 0

    def __enter__(self) -> LiveTrace:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the settings; delete the files that are left. A server that is away has no settings to restore."""
        cleared = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
        try:
            self._server.set_trace(self._model, cleared)
        except Exception as failure:  # noqa: BLE001 - the first error must stay the reported one
            warn(f"the trace settings of {self._model} were not restored: {failure}")
        for path in self._new_paths():
            path.unlink(missing_ok=True)

    def take(self, spec: ModelSpec) -> Iterator[LiveRequest]:
        """Yield the requests that were traced since the last call, and delete their files."""
        for path in self._new_paths():
            with suppress(FileNotFoundError):
                age_s = time.time() - path.stat().st_mtime
                try:
                    request = parse_trace(path.read_bytes(), spec)
                except ValueError:
                    if age_s < _SETTLED_S:
                        continue
                    self.unreadable += 1
                    path.unlink(missing_ok=True)
                    continue
                path.unlink(missing_ok=True)
                if request.request_id != REPEATED:
                    yield request

    def renew(self) -> None:
        """Let Triton trace more requests if it has reached the maximum."""
        if self._server.trace_settings(self._model).get("trace_count") == "0":
            self._start()

    def _start(self) -> None:
        settings: dict[str, str | list[str] | None] = {
            "trace_level": ["TIMESTAMPS", "TENSORS"],  # only traces with timestamps name the version
            "trace_rate": str(self._rate),
            "trace_count": str(MAX_PENDING),
            "log_frequency": "1",
        }
        self._server.set_trace(self._model, settings)

    def _paths(self) -> list[Path]:
        found = [
            (int(path.suffix[1:]), path)
            for path in self._file.parent.glob(f"{self._file.name}.*")
            if path.suffix[1:].isdecimal()
        ]
        return [path for _, path in sorted(found)]

    def _new_paths(self) -> list[Path]:
        paths = []
        for path in self._paths():
            with suppress(FileNotFoundError):
                if (path, path.stat().st_mtime_ns) not in self._known:
                    paths.append(path)
        return paths
