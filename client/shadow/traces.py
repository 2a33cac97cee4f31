"""Triton's trace of live requests: their inputs and outputs, sampled by the server and written to files.

Triton can trace the tensors of every Nth request of one model (the setting `trace_level` TENSORS), with no change for
the callers. It writes a file for each traced request after the request was answered. The settings of a model can be
changed at any time, and a maximum number of traces can be set: if this program is killed, the server stops by itself.
All models of a server write to the same folder, so each file is checked for the name of its model.

Format: triton-inference-server/server, src/tracer.cc and docs/user_guide/trace.md. The file is no valid JSON, because
Triton (24.10) writes each value of a UINT8 tensor as one raw byte, and bytes are separated by commas.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import InputError
from tritonkit.spec import ModelSpec, Outputs, TensorSpec
from tritonkit.system.console import warn
from tritonkit.triton.client import TritonClient

MAX_PENDING = 64
"""Most traces that Triton writes before it waits for this program, so that neither falls behind."""
_MAX_PENDING_BYTES = 2**29
"""Of all pending traces, if each is of a largest batch; at least one is written."""
_IMAGE_VALUE_BYTES, _FLOAT_BYTES = 2, 16
"""At most, of a value in a trace file."""
REPEATED = "tritonkit-shadow"
"""The id of requests that this program sends to the served version, so that they are not mirrored in turn."""
_SETTLED_S = 1.0
"""A file that is older and still incomplete stays so."""
_HEADER = re.compile(rb'"model_name":"([^"]*)","model_version":(\d+)(?:,"request_id":"([^"]*)")?')
_HEADER_BYTES = 4096
_ENDS = (b"}]}]", b"}}]")
"""How a complete file ends; no tensor contains these, because a comma follows each of its bytes."""


class LiveRequest(NamedTuple):
    """A request that the server has answered."""

    version: str
    """The version that answered it."""
    images: NDArray[np.uint8]
    """[N, H, W, 3]."""
    outputs: Outputs | None
    """With six digits of floating-point values. None if there is text among them, or Triton did not trace all: the
    caller asked for some only, or a backend sent them after it had released the request, as the backends of the pip
    runtime do for large batches."""
    request_id: str = ""


def parse_trace(data: bytes, spec: ModelSpec) -> LiveRequest:
    """Read a trace file of one request. Raises ValueError if it is incomplete."""
    header = _HEADER.search(data)
    if header is None or not data.endswith(_ENDS):
        raise ValueError("the trace has no model_version, or no end")
    images = _tensor(data, "TENSOR_QUEUE_INPUT", spec.input)
    outputs, has_text = None, any(output.dtype == "BYTES" for output in spec.outputs)
    if not has_text and all(_marker("TENSOR_BACKEND_OUTPUT", output) in data for output in spec.outputs):
        outputs = {output.name: _tensor(data, "TENSOR_BACKEND_OUTPUT", output) for output in spec.outputs}
    return LiveRequest(header[2].decode(), images, outputs, (header[3] or b"").decode(errors="replace"))


def _marker(activity: str, tensor: TensorSpec) -> bytes:
    # A tensor cannot contain this text: a comma follows each of its bytes.
    return f'"activity":"{activity}","tensor":{{"name":"{tensor.name}","data":"'.encode()


def _tensor(data: bytes, activity: str, tensor: TensorSpec) -> NDArray[Any]:
    """Read one tensor, [N, ...]. Raises ValueError."""
    marker = _marker(activity, tensor)
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

    def __init__(self, server: TritonClient, model: str, spec: ModelSpec, share: float, file: Path | None) -> None:
        """Read the settings of the server.

        spec: of the served version. share: of the requests, in 0..1; at most this share is traced. file: the trace file
        as this process sees it; None takes the server's path.
        Raises InputError if the server has no trace file, or this process cannot delete files there; InferenceError.
        """
        self._server, self._model, self._spec = server, model, spec
        settings = server.trace_settings(model)
        served_file = settings.get("trace_file", "")
        if not served_file or settings.get("trace_mode", "triton") != "triton":
            raise InputError(
                f"{server.url}: was started without a trace file, so its live requests cannot be mirrored. `server up` "
                "sets one with --runtime pip; start another Triton with --trace-config triton,file=FOLDER/trace.json",
                code="shadow.no_trace_file",
            )
        self._file = file or Path(served_file)
        folder = self._file.parent
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder on this machine; the server writes the traces of live requests there. Run "
                f"the command on the server's machine, or set --trace-file to {self._file.name} where this machine "
                "sees it",
                code="shadow.trace_folder",
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: this user cannot delete the server's trace files there; they contain images of live "
                "requests. Run the command as the server's user, or let this user write to the folder",
                code="shadow.trace_folder_read_only",
            )
        self._rate = math.ceil(1 / share)
        self._count = self._max_pending()
        self._restored: dict[str, str | list[str] | None] = {}
        self.unreadable = 0

    @property
    def share(self) -> float:
        """The share of the requests that is traced."""
        return 1 / self._rate

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that traces the model. Raises InputError if its requests are traced already.

        The kernel releases the lock of a process that is killed; what that left behind is taken over.
        """
        with os.fdopen(os.open(f"{self._file}.{self._model}.lock", os.O_RDONLY | os.O_CREAT, 0o644)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{self._server.url}: another `client shadow` mirrors requests to {self._model}; wait until it "
                    "ends",
                    code="shadow.traced_already",
                ) from error
            before = self._server.trace_settings(self._model)
            ours = self._settings()
            is_left = before.get("trace_count", "-1") != "-1" and all(
                before.get(name) == _text(ours[name]) for name in ("trace_level", "log_frequency")
            )
            if before.get("trace_level", "OFF") != "OFF" and not is_left:
                raise InputError(
                    f"{self._server.url}: requests to {self._model} are traced already (trace_level "
                    f"{before['trace_level']}). Set the trace_level of the model to OFF with Triton's trace API",
                    code="shadow.traced_already",
                )
            # A setting that is equal to the server's follows it again.
            server_wide = self._server.trace_settings("")
            self._restored = {
                name: None if is_left or before.get(name) == server_wide.get(name) else before.get(name)
                for name in ours
            }
            self._delete()
            yield

    def __enter__(self) -> LiveTrace:
        """Start the trace, within `lock`."""
        try:
            self._start()
        except BaseException:  # Triton may have changed the settings although the answer was lost
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the settings; delete the files that are left. A server that is away has no settings to restore."""
        try:
            self._server.set_trace(self._model, self._restored)
        except Exception as failure:  # noqa: BLE001 - the first error must stay the reported one
            warn(f"the trace settings of {self._model} were not restored: {failure}")
        try:
            time.sleep(_SETTLED_S)  # Triton writes the requests that it still answers
        finally:
            try:
                self._delete()
            except OSError as failure:
                warn(f"{self._file.parent}: images of live requests are left there: {failure}")

    def take(self) -> Iterator[LiveRequest]:
        """Yield the requests that were traced since the last call, and delete their files."""
        for path in self._paths():
            with suppress(FileNotFoundError):
                age_s = time.time() - path.stat().st_mtime
                try:
                    request = parse_trace(path.read_bytes(), self._spec)
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
        self._server.set_trace(self._model, self._settings())

    def _settings(self) -> Mapping[str, str | list[str]]:
        return {
            "trace_level": ["TIMESTAMPS", "TENSORS"],  # only traces with timestamps name the version
            "trace_rate": str(self._rate),
            "trace_count": str(self._count),
            "log_frequency": "1",
        }

    def _max_pending(self) -> int:
        """Return how many traces of the largest batch may lie on the disk. Raises InputError if it is full."""
        values = sum(
            math.prod(tensor.shape) * (_IMAGE_VALUE_BYTES if tensor.dtype == "UINT8" else _FLOAT_BYTES)
            for tensor in (self._spec.input, *self._spec.outputs)
        )
        trace_bytes = max(1, self._server.model(self._model).max_batch) * values
        free = shutil.disk_usage(self._file.parent).free
        if free < 2 * trace_bytes:
            raise InputError(
                f"{self._file.parent}: {free / 2**20:.0f} MiB are free, and the trace of one request to {self._model} "
                f"may need {trace_bytes / 2**20:.0f} MiB. Free some space",
                code="shadow.disk_full",
            )
        return max(1, min(MAX_PENDING, min(_MAX_PENDING_BYTES, free // 2) // trace_bytes))

    def _delete(self) -> None:
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """Return the trace files of this model, in order."""
        found = []
        for path in self._file.parent.glob(f"{self._file.name}.*"):
            if path.suffix[1:].isdecimal():
                with suppress(FileNotFoundError), path.open("rb") as file:
                    header = _HEADER.search(file.read(_HEADER_BYTES))
                    if header is not None and header[1].decode(errors="replace") == self._model:
                        found.append((int(path.suffix[1:]), path))
        return [path for _, path in sorted(found)]


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)
