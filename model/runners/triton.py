"""Ask a running Triton, over gRPC or HTTP.

The model's spec comes from the server: the builder puts it into a parameter of the model's configuration, so an
address and a model name are all a client needs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from model.errors import ArtifactError, InferenceError, InputError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import METADATA_KEY, Frozen, ModelSpec


class ModelState(Frozen):
    """A line of the server's model index."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class Counters(Frozen):
    """What Triton has counted for a model since it was loaded (KServe statistics extension)."""

    images: int = 0
    """Images answered: a batch of 8 counts 8."""
    executions: int = 0
    """Runs of the model: eight requests answered in one batch count 1."""
    requests: int = 0
    queue_ns: int = 0


class TritonServer:
    """A connection to `HOST:PORT` or `grpc://HOST:PORT` (gRPC), or `http://HOST:PORT`. Made on first use."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        scheme, separator, address = url.rpartition("://")
        port = address.rpartition(":")[2]
        if (separator and scheme not in ("grpc", "http")) or ":" not in address or not port.isdecimal():
            raise InputError(f"{url}: expected HOST:PORT, grpc://HOST:PORT or http://HOST:PORT")
        self.url = url
        self.protocol: Literal["grpc", "http"] = "http" if scheme == "http" else "grpc"
        self._address = address
        self._timeout_s = timeout_s
        self._module = tritonclient.http if self.protocol == "http" else tritonclient.grpc
        # tritonclient's HTTP client belongs to the thread that made it; a gRPC channel would not mind.
        self._local = threading.local()

    def models(self) -> list[ModelState]:
        """All models of the server's repository, loaded or not. Raises InferenceError."""
        with self._translated("list the models"):
            index = self._client.get_model_repository_index(**self._as_json)
        rows = index.get("models", []) if isinstance(index, dict) else index
        return [ModelState(**{key: str(value) for key, value in row.items()}) for row in rows]

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """A model's configuration. Raises InferenceError, or InputError that names the models there are."""
        try:
            with self._translated(f"read the configuration of {model!r}"):
                config = self._client.get_model_config(model, version, **self._as_json)
        except InferenceError as error:
            if "unknown model" not in str(error):
                raise
            asked = f"{model!r} version {version}" if version else repr(model)
            ready = sorted({row.name for row in self.models() if row.state == "READY"})
            raise InputError(f"{self.url} has no model {asked}; it serves: {', '.join(ready) or 'nothing'}") from error
        unwrapped: dict[str, Any] = config.get("config", config)
        return unwrapped

    def version(self, model: str) -> str:
        """The version Triton answers with when none is asked for: the highest that is loaded."""
        with self._translated(f"read the metadata of {model!r}"):
            versions = self._client.get_model_metadata(model, **self._as_json).get("versions", [])
        return str(max(map(int, versions))) if versions else ""

    def release(self) -> str:
        """The server's own version, such as 2.51.0. Raises InferenceError."""
        with self._translated("tell its version"):
            return str(self._client.get_server_metadata(**self._as_json)["version"])

    def counters(self, model: str, version: str = "") -> Counters:
        """What the server has counted for a model, one version or all together. Raises InferenceError."""
        with self._translated(f"read the statistics of {model!r}"):
            document = self._client.get_inference_statistics(model, version, **self._as_json)
        total = {"images": 0, "executions": 0, "requests": 0, "queue_ns": 0}
        for row in document.get("model_stats", []):
            queue = row.get("inference_stats", {}).get("queue", {})
            total["images"] += int(row.get("inference_count", 0))
            total["executions"] += int(row.get("execution_count", 0))
            total["requests"] += int(queue.get("count", 0))
            total["queue_ns"] += int(queue.get("ns", 0))
        return Counters(**total)

    def infer(self, model: str, version: str, spec: ModelSpec, batch: ImageArray) -> Outputs:
        """Send one batch. Raises InferenceError."""
        tensor = self._module.InferInput(spec.input.name, list(batch.shape), spec.input.dtype)
        tensor.set_data_from_numpy(batch)
        wanted = [self._module.InferRequestedOutput(output.name) for output in spec.outputs]
        limit = {"client_timeout": self._timeout_s} if self.protocol == "grpc" else {}
        with self._translated(f"ask {model!r}"):
            result = self._client.infer(model, [tensor], model_version=version, outputs=wanted, **limit)
        return {output.name: result.as_numpy(output.name) for output in spec.outputs}

    @property
    def _as_json(self) -> dict[str, bool]:
        return {"as_json": True} if self.protocol == "grpc" else {}

    @property
    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            limits = {"network_timeout": self._timeout_s, "connection_timeout": 10.0} if self.protocol == "http" else {}
            self._local.client = self._module.InferenceServerClient(self._address, **limits)
        return self._local.client

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            message = error.message() or ""
            if "UNAVAILABLE" in str(error.status()) or "failed to connect" in message.lower():
                raise self._unreachable(message) from error
            raise InferenceError(f"{self.url} could not {doing}: {message}") from error
        except Exception as error:  # the HTTP client lets through whatever a port that is not Triton's leads to
            raise self._unreachable(f"{type(error).__name__}: {error}") from error

    def _unreachable(self, why: str) -> InferenceError:
        port = "HTTP (8000)" if self.protocol == "http" else "gRPC (8001)"
        return InferenceError(
            f"no Triton answers at {self.url} ({why.splitlines()[0] if why else 'no reason given'}). "
            f"Start one with `server up`, or give the address of its {port} port with --url."
        )


class TritonRunner(Runner):
    """A model on a running Triton."""

    def __init__(self, server: TritonServer, model: str, version: str = "") -> None:
        """Ask the server for the model's spec. Raises InputError, ArtifactError, InferenceError, SpecError."""
        self.server = server
        self.model = model
        self.version = version
        self.origin = f"{server.url}/{model}"
        config = server.config(model, version)
        self.max_batch = int(config.get("max_batch_size", 0))
        parameter = config.get("parameters", {}).get(METADATA_KEY)
        if parameter is None:
            raise ArtifactError(
                f"{self.origin}: its config.pbtxt has no {METADATA_KEY} parameter, so labels and preprocessing "
                "are unknown. Publish it with `builder export`."
            )
        self.spec = ModelSpec.from_json(parameter["string_value"], origin=self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        return self.server.infer(self.model, self.version, self.spec, batch)
