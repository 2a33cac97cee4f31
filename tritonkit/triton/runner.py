"""Run models on a Triton server, over gRPC or HTTP.

The spec of a model comes from the server: the builder writes it to a parameter of the model configuration. So a client
needs only an address and a model name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from tritonkit.errors import (
    BatchError,
    InferenceError,
    InputError,
    NotReadyError,
    TokenError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
)
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Frozen, ModelSpec, Outputs
from tritonkit.triton.companions import without_encoded
from tritonkit.triton.connection import Connection, Protocol
from tritonkit.triton.errors import UnknownRegionError
from tritonkit.triton.retry import TRANSIENT, RetryPolicy
from tritonkit.triton.served_spec import changed_answer_fields, spec_from_config
from tritonkit.triton.shared_memory import SharedMemoryPool
from tritonkit.triton.transport import Transport, TritonRegionRegistry

_Answer = TypeVar("_Answer")


class ModelState(Frozen):
    """One row of the server's model index."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class ModelStatistics(Frozen):
    """Statistics of a model since it was loaded (KServe statistics extension)."""

    images: int = 0
    """Number of images: a batch of 8 counts as 8."""
    executions: int = 0
    """Number of model runs: eight requests in one batch count as 1."""
    requests: int = 0
    queue_ns: int = 0


class InferResult(NamedTuple):
    """The outputs of a request, and the model version that computed them."""

    outputs: Outputs
    version: str


class TritonServer:
    """Client of a Triton server; it connects with the first request. Thread-safe.

    Sends the tokens in `$TRITONKIT_TOKEN` and `$TRITONKIT_ADMIN_TOKEN` if they are set.
    Every method raises InferenceError or a subclass, TokenError, UnknownModelError or BatchError.
    """

    def __init__(self, target: str | Connection, on_failure: Callable[[TritonkitError], None] | None = None) -> None:
        """Create a client.

        target: an address, without retries, or the settings of a connection.
        on_failure: called with the error before each retry, in the thread of the request.
        Raises InputError for an invalid address or unusable files, TokenError.
        """
        self.connection = Connection(url=target) if isinstance(target, str) else target
        self.url = self.connection.url
        self.protocol: Protocol = self.connection.address.protocol
        self._transport = Transport(self.connection)
        on_failure = on_failure or (lambda error: None)
        self._request_retry = RetryPolicy(self.connection.patience_s, on_failure)
        self._startup_retry = RetryPolicy(self.connection.wait_s, on_failure, self._request_retry.stopped)
        use_shared_memory = self.connection.shared_memory and self.connection.address.is_loopback
        self._shared_memory = SharedMemoryPool(TritonRegionRegistry(self._transport)) if use_shared_memory else None

    def models(self) -> list[ModelState]:
        """Return all models in the server's repository; without the admin token, only the loaded ones."""
        try:
            index = self._call_with_wait("list the models", "get_model_repository_index", admin=True)
        except TokenError:
            rows = self._call_with_wait("list the models", "get_inference_statistics").get("model_stats", [])
            return [ModelState(name=row["name"], version=str(row["version"]), state="READY") for row in rows]
        rows = index.get("models", []) if isinstance(index, dict) else index
        return [ModelState(**{key: str(value) for key, value in row.items()}) for row in rows]

    def config(self, model: str, version: str = "", wait: bool = True) -> dict[str, Any]:
        """Return the configuration of a model. All loaded versions have the configuration of the newest.

        wait: retry while the model is loading. Raises UnknownModelError, whose message lists the ready models.
        """
        request = self._call_with_wait if wait else self._transport.document
        try:
            config = request(f"read the configuration of {model!r}", "get_model_config", model, version)
        except UnknownModelError as error:
            title = f"{model!r} version {version}" if version else repr(model)
            raise UnknownModelError(f"{self.url} has no model {title}; {self._describe_ready_models()}") from error
        unwrapped: dict[str, Any] = config.get("config", config)
        return unwrapped

    def version(self, model: str) -> str:
        """Return the version that Triton uses for requests without a version: the highest loaded one."""
        return next(reversed(self.versions(model)), "")

    def versions(self, model: str) -> list[str]:
        """Return the loaded versions, oldest first."""
        metadata = self._call_with_wait(f"read the metadata of {model!r}", "get_model_metadata", model)
        return sorted(map(str, metadata.get("versions", [])), key=int)

    def loaded_version(self, model: str) -> str:
        """Return the highest loaded version, without waiting for the server or model; empty if none is loaded."""
        try:
            metadata = self._transport.document(f"read the metadata of {model!r}", "get_model_metadata", model)
            return str(max(map(int, metadata.get("versions", [])), default=""))
        except (NotReadyError, UnknownModelError):
            return ""

    def release(self) -> str:
        """Return the version of the server, such as 2.51.0."""
        return str(self._call_with_wait("tell its version", "get_server_metadata")["version"])

    def counters(self, model: str, version: str = "") -> ModelStatistics:
        """Return the statistics of one version of a model, or of all versions together."""
        document = self._call_with_wait(f"read the statistics of {model!r}", "get_inference_statistics", model, version)
        total = {"images": 0, "executions": 0, "requests": 0, "queue_ns": 0}
        for row in document.get("model_stats", []):
            queue = row.get("inference_stats", {}).get("queue", {})
            total["images"] += int(row.get("inference_count", 0))
            total["executions"] += int(row.get("execution_count", 0))
            total["requests"] += int(queue.get("count", 0))
            total["queue_ns"] += int(queue.get("ns", 0))
        return ModelStatistics(**total)

    def infer(self, model: str, version: str, spec: ModelSpec, batch: ImageArray) -> InferResult:
        """Run a model on a batch, uint8 [N, H, W, 3]; retry for `patience_s` after temporary errors."""
        return self.with_retries(lambda: self.infer_once(model, version, spec, batch))

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

    def infer_tensors(
        self, model: str, version: str, inputs: Mapping[str, tuple[str, NDArray[Any]]], **options: Any
    ) -> dict[str, NDArray[Any]]:
        """Send one request to any model and return its outputs by name.

        inputs: Triton data type and values by input name. options: of `InferenceServerClient.infer`.
        """
        tensors = [
            self._transport.module.InferInput(name, [*values.shape], dtype) for name, (dtype, values) in inputs.items()
        ]
        for tensor, (_, values) in zip(tensors, inputs.values(), strict=True):
            tensor.set_data_from_numpy(values)
        action, transport = f"run {model!r}", self._transport
        result = self.with_retries(
            lambda: transport.call(action, "infer", model, tensors, model_version=version, **options)
        )
        response = result.get_response()
        outputs = response["outputs"] if isinstance(response, dict) else response.outputs
        names = [output["name"] if isinstance(output, dict) else output.name for output in outputs]
        return {name: result.as_numpy(name) for name in names}

    def infer_once(self, model: str, version: str, spec: ModelSpec, batch: ImageArray) -> InferResult:
        """Run a model on a batch, uint8 [N, H, W, 3], without retries."""
        self._transport.process.check_current()  # before a lock, which may stay locked in a forked process
        if self._shared_memory is not None:
            try:
                with self._shared_memory.borrow(batch.nbytes) as region:
                    if region is not None:
                        region.write(batch)
                        return self._send(model, version, spec, batch, region.name)
            except UnknownRegionError:
                pass  # the server was restarted and did not run the request
        return self._send(model, version, spec, batch)

    def _send(self, model: str, version: str, spec: ModelSpec, batch: ImageArray, region: str = "") -> InferResult:
        module = self._transport.module
        tensor = module.InferInput(spec.input.name, list(batch.shape), spec.input.dtype)
        if region:
            tensor.set_shared_memory(region, batch.nbytes)
        else:
            tensor.set_data_from_numpy(batch)
        requested = [module.InferRequestedOutput(output.name) for output in spec.outputs]
        action = f"run {model!r}"
        result = self._transport.call(action, "infer", model, [tensor], model_version=version, outputs=requested)
        outputs = {output.name: result.as_numpy(output.name) for output in spec.outputs}
        for name, array in outputs.items():
            if array is None or len(array) != len(batch):
                got = "nothing" if array is None else f"{list(array.shape)}"
                raise InferenceError(
                    f"{self.url} could not {action}: expected {name} of {len(batch)} images, got {got}",
                    code="answer.batch_size",
                )
        response = result.get_response()
        used_version = response["model_version"] if self.protocol == "http" else response.model_version
        return InferResult(outputs, str(used_version))

    def _describe_ready_models(self) -> str:
        ready = without_encoded(row.name for row in self.models() if row.state == "READY")
        return f"ready models: {', '.join(ready) or 'none'}"

    def _call_with_wait(self, action: str, method: str, *arguments: Any, admin: bool = False) -> Any:
        return self._startup_retry.call(
            lambda: self._transport.document(action, method, *arguments, admin=admin),
            (*TRANSIENT, UnknownModelError),
            "--wait",
        )


class TritonRunner(Runner):
    """Runs a model on a Triton server.

    If the server loads another version later, its outputs are accepted only if a client reads them the same way.
    """

    def __init__(self, server: TritonServer, model: str, version: str = "") -> None:
        """Read the model's spec from the server. Raises InputError, ArtifactError, InferenceError, SpecError."""
        self.server = server
        self.model = model
        self.version = version
        self.origin = f"{server.url}/{model}"
        config = server.config(model, version)
        self.max_batch = int(config.get("max_batch_size", 0))
        self.spec = spec_from_config(config, self.origin)
        # Without a version, the configuration does not say its version, so the first result is checked too.
        self._compatible_versions = {version} if version else set()

    def pin_version(self) -> TritonRunner:
        """Return a runner of the version that is newest now; it ignores versions that are loaded later.

        Raises the errors of the constructor.
        """
        return self if self.version else TritonRunner(self.server, self.model, self.server.version(self.model))

    def _infer(self, batch: ImageArray) -> Outputs:
        return self.server.with_retries(lambda: self._infer_checked(batch))

    def _infer_checked(self, batch: ImageArray) -> Outputs:
        """Run a batch once and check the outputs. Raises NotReadyError if the version is gone, InferenceError."""
        try:
            result = self.server.infer_once(self.model, self.version, self.spec, batch)
            if result.version not in self._compatible_versions:
                self._check_version(result.version, len(batch))
                self._compatible_versions.add(result.version)
        except BatchError:
            self._check_version(self.version, len(batch))
            raise
        except UnreachableError:
            self._compatible_versions.clear()  # after a restart, the same version number may be another model
            raise
        except (NotReadyError, UnknownModelError) as error:  # the model existed when its spec was read
            self._compatible_versions.clear()
            raise self._not_ready_error(error) from error
        for output in self.spec.outputs:
            got = result.outputs[output.name].shape[1:]
            if got != output.shape:
                raise InferenceError(
                    f"{self.origin} version {result.version}: expected {output}, got [N, {', '.join(map(str, got))}]."
                    " The model does not match its spec; publish it again with `builder export`",
                    code="answer.shape",
                )
        return result.outputs

    def _check_version(self, version: str, images: int) -> None:
        """Check that a version has the same inputs and outputs as the opened one. Raises InferenceError."""
        title = f"version {version}" if version else "another version"
        config = self.server.config(self.model, version, wait=False)
        try:
            changed = changed_answer_fields(self.spec, spec_from_config(config, self.origin))
        except InputError as error:
            raise InferenceError(
                f"{self.origin}: {title} is loaded now, and its spec cannot be read: {error}",
                code="server.version_unreadable",
            ) from error
        if 0 < int(config.get("max_batch_size", 0)) < images:
            changed.append("max_batch_size")
        if changed:
            raise InferenceError(
                f"{self.origin}: {title} is loaded now and differs from the opened version in "
                f"{', '.join(changed)}. Run the command again to use the new version",
                code="server.version_changed",
            )

    def _not_ready_error(self, error: TritonkitError) -> NotReadyError:
        """Create the error for a model or version that is not loaded any more, with the command that helps."""
        current = self.server.loaded_version(self.model)
        if not current:
            return NotReadyError(f"{error}. If it was unloaded, load it again: `server load {self.model}`")
        if current == self.version or not self.version:
            return NotReadyError(str(error))
        return NotReadyError(
            f"{self.origin}: version {self.version} is not loaded any more; the server has version {current} instead. "
            f"To continue with version {self.version}: `builder promote {self.model} {self.version}`, then `server "
            f"reload {self.model}`, then the same command again; afterwards `builder promote {self.model} latest`"
        )

    def close(self) -> None:
        """Close the connection. A request that is being retried ends with its last error."""
        self.server.close()
