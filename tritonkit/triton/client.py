"""The client of a Triton server: index, statistics, loading, and inference, over gRPC or HTTP."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar

from numpy.typing import NDArray

from tritonkit.errors import (
    CertificateError,
    CheckFailedError,
    DeadlineError,
    InferenceError,
    InputError,
    TokenError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
)
from tritonkit.spec import Frozen, ModelSpec, Outputs
from tritonkit.triton.companions import without_encoded
from tritonkit.triton.connection import Connection, Protocol, RequestTokens
from tritonkit.triton.errors import UnknownRegionError
from tritonkit.triton.retry import TRANSIENT, RetryPolicy
from tritonkit.triton.served_model import ServedModel
from tritonkit.triton.shared_memory import RegionRegistry, SharedMemoryPool
from tritonkit.triton.transport import Transport

_Answer = TypeVar("_Answer")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PYTHON_FRAMES = re.compile(r"\s+At:\n(?:  .*\n?)*")
_CONTROL_TIMEOUT_S = 20.0
"""Longest deadline of requests that Triton answers at once, also where models may take longer to load."""


class VersionState(Frozen):
    """A row of Triton's repository index: a version, or a model that was never loaded (with an empty version)."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether the version answers requests."""
        return self.state == "READY"

    @property
    def is_unloaded(self) -> bool:
        """Whether the version was unloaded or replaced, and not failed."""
        return self.state in ("", "UNLOADING") or (self.state == "UNAVAILABLE" and self.reason in ("", "unloaded"))

    @property
    def has_failed(self) -> bool:
        """Whether the version failed to load."""
        return self.state == "UNAVAILABLE" and not self.is_unloaded


class Statistics(NamedTuple):
    """Triton's counters since a version was loaded (statistics extension of KServe's protocol).

    Times are sums over requests: each request of a batch counts the whole time of its batch. An ensemble counts the
    sums over its steps. A request that the response cache answered counts no compute time.
    """

    requests: int = 0
    failures: int = 0
    images: int = 0
    """A batch of 8 counts 8."""
    executions: int = 0
    """Eight requests answered in one batch count 1."""
    queue_count: int = 0
    queue_ns: int = 0
    computed: int = 0
    """Successful requests that the model computed."""
    input_ns: int = 0
    """`compute_input`: gathering the inputs of a batch, and copying them to the model's device."""
    infer_ns: int = 0
    """`compute_infer`: running the model."""
    output_ns: int = 0
    """`compute_output`: copying the outputs into the responses."""
    request_ns: int = 0
    """From the arrival of a successful request to its response."""
    batches: Mapping[int, int] = MappingProxyType({})
    """Executions by batch size in images."""

    @classmethod
    def total(cls, rows: Iterable[Statistics]) -> Statistics:
        """Return the sum of several versions."""
        return functools.reduce(lambda one, other: one._combined(other, operator.add), rows, cls())

    def since(self, earlier: Statistics) -> Statistics:
        """Return what was counted after `earlier`."""
        return self._combined(earlier, operator.sub)

    def _combined(self, other: Statistics, combine: Callable[[int, int], int]) -> Statistics:
        sizes = sorted({*self.batches, *other.batches})
        batches = {size: combine(self.batches.get(size, 0), other.batches.get(size, 0)) for size in sizes}
        changed = {size: executions for size, executions in batches.items() if executions}
        return Statistics._make((*map(combine, self[:-1], other[:-1]), changed))

    @property
    def mean_batch(self) -> float | None:
        """Mean images of an execution; None without one."""
        return self.images / self.executions if self.executions > 0 else None

    @property
    def queue_us(self) -> float | None:
        """Mean time of a request in the queue, in microseconds; None without a request."""
        return _mean_us(self.queue_ns, self.queue_count)

    @property
    def input_us(self) -> float | None:
        """Mean `compute_input` of a request, in microseconds; None without a computed request."""
        return _mean_us(self.input_ns, self.computed)

    @property
    def infer_us(self) -> float | None:
        """Mean `compute_infer` of a request, in microseconds; None without a computed request."""
        return _mean_us(self.infer_ns, self.computed)

    @property
    def output_us(self) -> float | None:
        """Mean `compute_output` of a request, in microseconds; None without a computed request."""
        return _mean_us(self.output_ns, self.computed)

    @property
    def request_us(self) -> float | None:
        """Mean time of a successful request in the server, in microseconds; None without one."""
        return _mean_us(self.request_ns, self.requests - self.failures)


class BatchTimes(NamedTuple):
    """The executions of batches of one size."""

    executions: int = 0
    total_ns: int = 0
    """Their time on an instance: gathering the inputs, running the model, writing the responses."""


class InferResult(NamedTuple):
    """The outputs of a request, and the model version that computed them."""

    outputs: Outputs
    version: str


class TritonClient:
    """Client of a Triton server; it connects with the first request. Thread-safe.

    Close it: Triton waits for open connections when it stops.
    Every method raises InferenceError or a subclass, TokenError, UnknownModelError or BatchError.
    """

    def __init__(
        self,
        target: str | Connection,
        on_failure: Callable[[TritonkitError], None] = lambda error: None,
        tokens: RequestTokens | None = None,
    ) -> None:
        """Create a client.

        target: an address, without retries, or the settings of a connection. Its deadline also applies to loading.
        on_failure: called with the error before each retry, in the thread of the request.
        tokens: of a server on this machine; None reads `$TRITONKIT_TOKEN` and `$TRITONKIT_ADMIN_TOKEN`.
        Raises InputError for an invalid address or unusable files, TokenError.
        """
        self.connection = Connection(url=target) if isinstance(target, str) else target
        self.url = self.connection.url
        self.protocol: Protocol = self.connection.address.protocol
        self._transport = Transport(self.connection, tokens)
        self._request_retry = RetryPolicy(self.connection.patience_s, on_failure)
        self._startup_retry = RetryPolicy(self.connection.wait_s, on_failure, self._request_retry.stopped)
        use_shared_memory = self.connection.shared_memory and self.connection.address.is_loopback
        self._shared_memory = SharedMemoryPool(RegionRegistry(self._transport)) if use_shared_memory else None

    @property
    def uses_shared_memory(self) -> bool:
        """Whether the server has mapped shared memory of this client."""
        return self._shared_memory is not None and self._shared_memory.is_used

    def is_ready(self) -> bool:
        """Whether the server reports that it is ready."""
        return bool(self._transport.call("send its state", "is_server_ready", timeout_s=_CONTROL_TIMEOUT_S))

    def release(self) -> str:
        """Return the version of the server, such as 2.51.0."""
        return str(self._read("tell its version", "get_server_metadata")["version"])

    def index(self) -> list[VersionState]:
        """Return a row for each version that Triton ever tried to load, and for each model never loaded."""
        document = self._read("list its models", "get_model_repository_index", admin=True, timeout_s=_CONTROL_TIMEOUT_S)
        rows = document.get("models", []) if isinstance(document, dict) else document
        return [VersionState(**{key: str(value) for key, value in row.items()}) for row in rows]

    def models(self) -> list[VersionState]:
        """Return the index; without the admin token, only the loaded versions."""
        try:
            return self.index()
        except TokenError:
            return [VersionState(name=name, version=version, state="READY") for name, version in self.statistics()]

    def statistics(self, model: str = "", version: str = "") -> dict[tuple[str, str], Statistics]:
        """Return the statistics of loaded versions, by model and version. By default those of all models."""
        action = f"read the statistics of {model!r}" if model else "send its statistics"
        document = self._read(action, "get_inference_statistics", model, version, timeout_s=_CONTROL_TIMEOUT_S)
        rows = document.get("model_stats", [])
        return {(row["name"], str(row["version"])): _statistics_from_row(row) for row in rows}

    def batch_times(self, model: str) -> dict[int, BatchTimes]:
        """Return the executions of all loaded versions of a model since they were loaded, by batch size in images."""
        action = f"read the statistics of {model!r}"
        document = self._read(action, "get_inference_statistics", model, "", timeout_s=_CONTROL_TIMEOUT_S)
        times: dict[int, BatchTimes] = {}
        for entry in (entry for row in document.get("model_stats", []) for entry in row.get("batch_stats", [])):
            size = int(entry.get("batch_size", 0))
            steps = [entry.get(f"compute_{step}", {}) for step in ("input", "infer", "output")]
            earlier = times.get(size, BatchTimes())
            times[size] = BatchTimes(
                earlier.executions + int(steps[1].get("count", 0)),
                earlier.total_ns + sum(int(step.get("ns", 0)) for step in steps),
            )
        return times

    def load(self, model: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model; the old version serves until the new one is ready.

        config: JSON of a ModelConfig that replaces the one of the repository. It stays until the model's files change,
        it is unloaded, or another `config` is loaded: Triton ignores a load without `config` of unchanged files.
        files: contents by name, such as `file:1/model.onnx`, instead of the repository's; they need a `config`.
        Raises CheckFailedError with Triton's reason when the model fails to load.
        """
        options = {"config": config, "files": files}
        self._change("load", model, **{name: value for name, value in options.items() if value is not None})

    def unload(self, model: str) -> None:
        """Unload a model and the ensembles that need it. Requests in flight are completed."""
        self._change("unload", model)

    def trace_settings(self, model: str) -> dict[str, str]:
        """Return the trace settings that apply to a model; several values are joined by commas."""
        action = f"read the trace settings of {model!r}"
        document = self._read(action, "get_trace_settings", model, admin=True, timeout_s=_CONTROL_TIMEOUT_S)
        values = (
            {name: entry.get("value", []) for name, entry in document["settings"].items()}
            if ("settings" in document)
            else document
        )
        return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}

    def set_trace(self, model: str, settings: Mapping[str, str | list[str] | None]) -> None:
        """Change trace settings of a model; None lets the server's setting apply again."""
        self._transport.call(
            f"change the trace settings of {model!r}",
            "update_trace_settings",
            model,
            dict(settings),
            admin=True,
            timeout_s=_CONTROL_TIMEOUT_S,
        )

    def config(self, model: str, version: str = "", wait: bool = True) -> dict[str, Any]:
        """Return the configuration of a model as JSON. All loaded versions have the configuration of the newest.

        wait: retry while the model is loading. Raises UnknownModelError, whose message lists the ready models.
        """
        action = f"read the configuration of {model!r}"
        try:
            document = self._read(action, "get_model_config", model, version, wait=wait)
        except UnknownModelError as error:
            title = f"{model!r} version {version}" if version else repr(model)
            ready = ", ".join(without_encoded(row.name for row in self.models() if row.is_ready)) or "none"
            raise UnknownModelError(f"{self.url} has no model {title}; ready models: {ready}") from error
        config: dict[str, Any] = document.get("config", document)
        return config

    def model(self, model: str, version: str = "", wait: bool = True) -> ServedModel:
        """Return the description of a model, from its configuration. Takes the arguments of `config`."""
        return ServedModel.from_config(model, self.config(model, version, wait), f"{self.url}/{model}")

    def versions(self, model: str, wait: bool = True) -> list[str]:
        """Return the loaded versions, oldest first."""
        metadata = self._read(f"read the metadata of {model!r}", "get_model_metadata", model, wait=wait)
        return sorted(map(str, metadata.get("versions", [])), key=int)

    def version(self, model: str, wait: bool = True) -> str:
        """Return the version that Triton uses for requests without a version: the highest loaded one; empty if none."""
        return next(reversed(self.versions(model, wait)), "")

    def infer(self, model: str, version: str, spec: ModelSpec, batch: NDArray[Any]) -> InferResult:
        """Run a model on a batch, uint8 [N, H, W, 3], without retries. An empty version is the server's choice.

        A pipeline takes one encoded image, bytes [1].
        """
        self._transport.process.check_current()  # before a lock, which may stay locked in a forked process
        module = self._transport.module

        def send(region: str = "") -> InferResult:
            tensor = module.InferInput(spec.input.name, list(batch.shape), spec.input.dtype)
            if region:
                tensor.set_shared_memory(region, batch.nbytes)
            else:
                tensor.set_data_from_numpy(batch)
            requested = [module.InferRequestedOutput(output.name) for output in spec.outputs]
            result, used_version = self._infer(model, version, [tensor], outputs=requested)
            outputs = {output.name: result.as_numpy(output.name) for output in spec.outputs}
            for name, array in outputs.items():
                if array is None or (spec.pipeline is None and len(array) != len(batch)):
                    got = "nothing" if array is None else f"{list(array.shape)}"
                    raise InferenceError(
                        f"{self.url} could not run {model!r}: expected {name} of {len(batch)} images, got {got}",
                        code="answer.batch_size",
                    )
            return InferResult(outputs, used_version)

        if self._shared_memory is not None and spec.pipeline is None:
            try:
                with self._shared_memory.borrow(batch.nbytes) as region:
                    if region is not None:
                        region.write(batch)
                        return send(region.name)
            except UnknownRegionError:
                pass  # the server was restarted and did not run the request
        return send()

    def infer_tensors(
        self, model: str, version: str, inputs: Mapping[str, tuple[str, NDArray[Any]]], **options: Any
    ) -> dict[str, NDArray[Any]]:
        """Send one request to any model and return its outputs by name, without retries.

        inputs: Triton data type and values by input name. options: of `InferenceServerClient.infer`.
        """
        result, _ = self._infer(model, version, self.prepare(inputs), **options)
        response = result.get_response()
        outputs = response["outputs"] if isinstance(response, dict) else response.outputs
        names = [output["name"] if isinstance(output, dict) else output.name for output in outputs]
        return {name: result.as_numpy(name) for name in names}

    def prepare(self, inputs: Mapping[str, tuple[str, NDArray[Any]]]) -> list[Any]:
        """Encode inputs for `send`. inputs: Triton data type and values by input name."""
        tensors = []
        for name, (dtype, values) in inputs.items():
            tensors.append(self._transport.module.InferInput(name, [*values.shape], dtype))
            tensors[-1].set_data_from_numpy(values)
        return tensors

    def send(self, model: str, version: str, prepared: list[Any], **options: Any) -> None:
        """Send encoded inputs, as often as wanted, and wait for the response without decoding it; without retries.

        options: of `InferenceServerClient.infer`.
        """
        self._infer(model, version, prepared, **options)

    def with_retries(self, request: Callable[[], _Answer]) -> _Answer:
        """Call `request` and return its result; retry for `patience_s` while it fails with a temporary error."""
        return self._request_retry.call(request, option="--patience")

    def close(self) -> None:
        """Close the connection. Requests that are being retried end with their last error."""
        if not self._transport.process.is_current():
            return  # its shared memory belongs to the other process
        self._request_retry.stopped.set()
        if self._shared_memory is not None:
            self._shared_memory.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, action: str, method: str, *arguments: Any, wait: bool = True, **options: Any) -> Any:
        """Read a document, with retries for `wait_s`; without `wait` once. options: of `Transport.document`."""

        def request() -> Any:
            return self._transport.document(action, method, *arguments, **options)

        return self._startup_retry.call(request, (*TRANSIENT, UnknownModelError), "--wait") if wait else request()

    def _infer(self, model: str, version: str, tensors: list[Any], **options: Any) -> tuple[Any, str]:
        """Send a request; return tritonclient's result and the version that answered."""
        result = self._transport.call(f"run {model!r}", "infer", model, tensors, model_version=version, **options)
        response = result.get_response()
        return result, str(response["model_version"] if self.protocol == "http" else response.model_version)

    def _change(self, action: str, model: str, **options: Any) -> None:
        from tritonclient.utils import InferenceServerException

        check_model_name(model)
        try:
            self._transport.call(f"{action} {model}", f"{action}_model", model, admin=True, **options)
        except (CertificateError, DeadlineError, TokenError, UnreachableError):
            raise  # Triton did not handle the model
        except TritonkitError as error:
            reason = error.__cause__.message() if isinstance(error.__cause__, InferenceServerException) else str(error)
            raise CheckFailedError(
                _PYTHON_FRAMES.sub("", reason or "").strip(" ;\n"), code="server.refused_model"
            ) from error


def check_model_name(model: str) -> None:
    """Check that a model name is the name of one folder. Raises InputError."""
    if not _MODEL_NAME.fullmatch(model):
        raise InputError(
            f"{model!r} is not a model name: expected the name of one folder in the model repository",
            code="repository.model_name",
        )


def _statistics_from_row(row: dict[str, Any]) -> Statistics:
    """Parse a row: gRPC sends numbers as text and omits zeros."""
    inference = row.get("inference_stats", {})

    def number(key: str, field: str) -> int:
        return int(inference.get(key, {}).get(field, 0))

    return Statistics(
        requests=number("success", "count") + number("fail", "count"),
        failures=number("fail", "count"),
        images=int(row.get("inference_count", 0)),
        executions=int(row.get("execution_count", 0)),
        queue_count=number("queue", "count"),
        queue_ns=number("queue", "ns"),
        computed=number("compute_infer", "count"),
        input_ns=number("compute_input", "ns"),
        infer_ns=number("compute_infer", "ns"),
        output_ns=number("compute_output", "ns"),
        request_ns=number("success", "ns"),
        batches={
            int(batch.get("batch_size", 0)): int(batch.get("compute_infer", {}).get("count", 0))
            for batch in row.get("batch_stats", [])
        },
    )


def _mean_us(total_ns: int, count: int) -> float | None:
    return total_ns / count / 1e3 if count > 0 else None
