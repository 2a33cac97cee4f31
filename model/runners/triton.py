"""Ask a running Triton, over gRPC or HTTP.

The model's spec comes from the server: the builder puts it into a parameter of the model's configuration, so an
address and a model name are all a client needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from model.connection import Connection, Protocol
from model.encoded import without_encoded
from model.errors import (
    BatchError,
    InferenceError,
    InputError,
    NotReadyError,
    TokenError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
)
from model.patience import PASSING, RetryPolicy
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.runners.served_spec import differences, spec_in
from model.runners.shared_memory import SharedMemoryPool
from model.runners.triton_errors import UnknownRegionError
from model.runners.triton_transport import Transport, TritonRegionRegistry
from model.spec import Frozen, ModelSpec

_Answer = TypeVar("_Answer")


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


class InferResult(NamedTuple):
    """The outputs of a request, and the version of the model that gave them."""

    outputs: Outputs
    version: str


class TritonServer:
    """A connection to a server, made with the first request. Safe to use from several threads.

    The tokens of `$TRITONKIT_TOKEN` and `$TRITONKIT_ADMIN_TOKEN` are shown where they are set.
    Every method raises InferenceError in its kinds, and TokenError, UnknownModelError or BatchError.
    """

    def __init__(self, where: str | Connection, on_failure: Callable[[TritonkitError], None] | None = None) -> None:
        """where: an address, asked once, or the terms of a connection.

        on_failure: told of each failed request before it is repeated, in the thread that asks.
        Raises InputError for an address or files that cannot be used, TokenError.
        """
        self.connection = Connection(url=where) if isinstance(where, str) else where
        self.url = self.connection.url
        self.protocol: Protocol = self.connection.address.protocol
        self._transport = Transport(self.connection)
        told = on_failure or (lambda error: None)
        self._request_retry = RetryPolicy(self.connection.patience_s, told)
        self._startup_retry = RetryPolicy(self.connection.wait_s, told, self._request_retry.over)
        wants_memory = self.connection.shared_memory and self.connection.address.is_loopback
        self._shared_memory = SharedMemoryPool(TritonRegionRegistry(self._transport)) if wants_memory else None

    def models(self) -> list[ModelState]:
        """The models of the server's repository; without the token for it, those that are loaded."""
        try:
            index = self._call_with_wait("list the models", "get_model_repository_index", admin=True)
        except TokenError:
            rows = self._call_with_wait("list the models", "get_inference_statistics").get("model_stats", [])
            return [ModelState(name=row["name"], version=str(row["version"]), state="READY") for row in rows]
        rows = index.get("models", []) if isinstance(index, dict) else index
        return [ModelState(**{key: str(value) for key, value in row.items()}) for row in rows]

    def config(self, model: str, version: str = "", wait: bool = True) -> dict[str, Any]:
        """A model's configuration; `waits` for a model that is loading. Raises UnknownModelError with those there are.

        Of versions that are loaded together, all have that of the newest.
        """
        ask = self._call_with_wait if wait else self._transport.document
        try:
            config = ask(f"read the configuration of {model!r}", "get_model_config", model, version)
        except UnknownModelError as error:
            asked = f"{model!r} version {version}" if version else repr(model)
            raise UnknownModelError(f"{self.url} has no model {asked}; {self._describe_ready_models()}") from error
        unwrapped: dict[str, Any] = config.get("config", config)
        return unwrapped

    def version(self, model: str) -> str:
        """The version Triton answers with when none is asked for: the highest that is loaded."""
        return next(reversed(self.versions(model)), "")

    def versions(self, model: str) -> list[str]:
        """The versions that are loaded, the oldest first."""
        metadata = self._call_with_wait(f"read the metadata of {model!r}", "get_model_metadata", model)
        return sorted(map(str, metadata.get("versions", [])), key=int)

    def loaded_version(self, model: str) -> str:
        """As `version`, without waiting for a server or model that is starting; empty where none is loaded."""
        try:
            metadata = self._transport.document(f"read the metadata of {model!r}", "get_model_metadata", model)
            return str(max(map(int, metadata.get("versions", [])), default=""))
        except (NotReadyError, UnknownModelError):
            return ""

    def release(self) -> str:
        """The server's own version, such as 2.51.0."""
        return str(self._call_with_wait("tell its version", "get_server_metadata")["version"])

    def counters(self, model: str, version: str = "") -> Counters:
        """What the server has counted for a model, one version or all together."""
        document = self._call_with_wait(f"read the statistics of {model!r}", "get_inference_statistics", model, version)
        total = {"images": 0, "executions": 0, "requests": 0, "queue_ns": 0}
        for row in document.get("model_stats", []):
            queue = row.get("inference_stats", {}).get("queue", {})
            total["images"] += int(row.get("inference_count", 0))
            total["executions"] += int(row.get("execution_count", 0))
            total["requests"] += int(queue.get("count", 0))
            total["queue_ns"] += int(queue.get("ns", 0))
        return Counters(**total)

    def infer(self, model: str, version: str, spec: ModelSpec, batch: ImageArray) -> InferResult:
        """Answer one batch, uint8 [N, H, W, 3]; asked again for `patience_s` while the server is away or too busy."""
        return self.with_retries(lambda: self.infer_once(model, version, spec, batch))

    def with_retries(self, request: Callable[[], _Answer]) -> _Answer:
        """What `request` gives, repeated for `patience_s` while it fails in a way that may pass."""
        return self._request_retry.ask(request, option="--patience")

    def close(self) -> None:
        """End the connection. Requests that are being repeated end with their last error."""
        if not self._transport.process.is_current():
            return  # its regions of shared memory are the other process's
        self._request_retry.over.set()
        if self._shared_memory is not None:
            self._shared_memory.close()
        self._transport.close()

    def infer_tensors(
        self, model: str, version: str, inputs: Mapping[str, tuple[str, NDArray[Any]]], **options: Any
    ) -> dict[str, NDArray[Any]]:
        """Have any model answer one request, and return its outputs by name.

        inputs: by name, Triton's type and values; options: of tritonclient.
        """
        tensors = [
            self._transport.module.InferInput(name, [*one.shape], dtype) for name, (dtype, one) in inputs.items()
        ]
        for tensor, (_, values) in zip(tensors, inputs.values(), strict=True):
            tensor.set_data_from_numpy(values)
        doing, transport = f"ask {model!r}", self._transport
        result = self.with_retries(
            lambda: transport.call(doing, "infer", model, tensors, model_version=version, **options)
        )
        response = result.get_response()
        outputs = response["outputs"] if isinstance(response, dict) else response.outputs
        names = [output["name"] if isinstance(output, dict) else output.name for output in outputs]
        return {name: result.as_numpy(name) for name in names}

    def infer_once(self, model: str, version: str, spec: ModelSpec, batch: ImageArray) -> InferResult:
        """As `infer`, without asking again."""
        self._transport.process.check()  # before any lock, which may be locked for ever
        if self._shared_memory is not None:
            try:
                with self._shared_memory.borrow(batch.nbytes) as region:
                    if region is not None:
                        region.write(batch)
                        return self._send(model, version, spec, batch, region.name)
            except UnknownRegionError:
                pass  # the server was started anew, and did not look at the request
        return self._send(model, version, spec, batch)

    def _send(self, model: str, version: str, spec: ModelSpec, batch: ImageArray, region: str = "") -> InferResult:
        module = self._transport.module
        tensor = module.InferInput(spec.input.name, list(batch.shape), spec.input.dtype)
        if region:
            tensor.set_shared_memory(region, batch.nbytes)
        else:
            tensor.set_data_from_numpy(batch)
        wanted = [module.InferRequestedOutput(output.name) for output in spec.outputs]
        doing = f"ask {model!r}"
        result = self._transport.call(doing, "infer", model, [tensor], model_version=version, outputs=wanted)
        outputs = {output.name: result.as_numpy(output.name) for output in spec.outputs}
        for name, array in outputs.items():
            if array is None or len(array) != len(batch):
                got = "nothing" if array is None else f"{list(array.shape)}"
                raise InferenceError(f"{self.url} could not {doing}: expected {name} of {len(batch)} images, got {got}")
        response = result.get_response()
        answering = response["model_version"] if self.protocol == "http" else response.model_version
        return InferResult(outputs, str(answering))

    def _describe_ready_models(self) -> str:
        ready = without_encoded(row.name for row in self.models() if row.state == "READY")
        return f"it serves: {', '.join(ready) or 'nothing'}"

    def _call_with_wait(self, doing: str, method: str, *arguments: Any, admin: bool = False) -> Any:
        return self._startup_retry.ask(
            lambda: self._transport.document(doing, method, *arguments, admin=admin),
            (*PASSING, UnknownModelError),
            "--wait",
        )


class TritonRunner(Runner):
    """A model on a running Triton.

    Answers of a version loaded later are given on only where its spec reads them as the opened one does.
    """

    def __init__(self, server: TritonServer, model: str, version: str = "") -> None:
        """Ask the server for the model's spec. Raises InputError, ArtifactError, InferenceError, SpecError."""
        self.server = server
        self.model = model
        self.version = version
        self.origin = f"{server.url}/{model}"
        config = server.config(model, version)
        self.max_batch = int(config.get("max_batch_size", 0))
        self.spec = spec_in(config, self.origin)
        # Unpinned, the configuration does not tell its version: that of the first answer is compared as any other.
        self._compatible_versions = {version} if version else set()

    def pinned(self) -> TritonRunner:
        """The same model, of the version that the server answers with now, however many are loaded later.

        Raises as the constructor does.
        """
        return self if self.version else TritonRunner(self.server, self.model, self.server.version(self.model))

    def _infer(self, batch: ImageArray) -> Outputs:
        return self.server.with_retries(lambda: self._infer_checked(batch))

    def _infer_checked(self, batch: ImageArray) -> Outputs:
        """Answers that the spec describes. Raises NotReadyError where the version is gone, InferenceError."""
        try:
            answered = self.server.infer_once(self.model, self.version, self.spec, batch)
            if answered.version not in self._compatible_versions:
                self._check_version(answered.version, len(batch))
                self._compatible_versions.add(answered.version)
        except BatchError:
            self._check_version(self.version, len(batch))
            raise
        except UnreachableError:
            self._compatible_versions.clear()  # what comes up again may have another model under the same number
            raise
        except (NotReadyError, UnknownModelError) as error:  # it was there when its spec was read
            self._compatible_versions.clear()
            raise self._not_ready_error(error) from error
        for output in self.spec.outputs:
            got = answered.outputs[output.name].shape[1:]
            if got != output.shape:
                raise InferenceError(
                    f"{self.origin} version {answered.version}: expected {output}, got [N, {', '.join(map(str, got))}]."
                    " Its network is not what its spec says; publish it again with `builder export`"
                )
        return answered.outputs

    def _check_version(self, version: str, images: int) -> None:
        """Refuse to go on with a version that takes or gives other things. Raises InferenceError."""
        which = f"version {version}" if version else "another version"
        config = self.server.config(self.model, version, wait=False)
        try:
            changed = differences(self.spec, spec_in(config, self.origin))
        except InputError as error:
            raise InferenceError(f"{self.origin}: {which} answers now, and cannot be understood: {error}") from error
        if 0 < int(config.get("max_batch_size", 0)) < images:
            changed.append("max_batch_size")
        if changed:
            raise InferenceError(
                f"{self.origin}: {which} answers now, and differs from the one that was opened in "
                f"{', '.join(changed)}. Open the model again (start the command again) to ask the new one"
            )

    def _not_ready_error(self, error: TritonkitError) -> NotReadyError:
        """What is wrong, and the way on, when the model or its version is not there any more, or not yet."""
        now = self.server.loaded_version(self.model)
        if not now:
            return NotReadyError(f"{error}. If it was unloaded, load it again: `server load {self.model}`")
        if now == self.version or not self.version:
            return NotReadyError(str(error))
        return NotReadyError(
            f"{self.origin}: version {self.version} answered so far, and the server has version {now} in its place. "
            f"To go on with version {self.version}: `builder promote {self.model} {self.version}`, then `server reload "
            f"{self.model}`, then the same again; afterwards `builder promote {self.model} latest`"
        )

    def close(self) -> None:
        """End the connection: what is being repeated ends with its last error."""
        self.server.close()
