"""Run a model on a Triton server, through the interface of all runners.

The spec of a model comes from the server: the builder writes it to a parameter of the model configuration. So a client
needs only an address and a model name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import (
    BatchError,
    InferenceError,
    InputError,
    NotReadyError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
)
from tritonkit.images.preprocess import ImageArray, ImageError
from tritonkit.runtimes.base import Runner, decode_text
from tritonkit.spec import Outputs
from tritonkit.triton.client import TritonClient
from tritonkit.triton.errors import refusal_of_input
from tritonkit.triton.model_config import shapes_fit
from tritonkit.triton.served_model import changed_answer_fields


class TritonRunner(Runner):
    """Runs a model on a Triton server.

    If the server loads another version later, its outputs are accepted only if a client reads them the same way.
    """

    def __init__(self, server: TritonClient, model: str, version: str = "") -> None:
        """Read the model's spec from the server. Raises InputError, ArtifactError, InferenceError, SpecError."""
        self.server = server
        self.model = model
        self.version = version
        self.origin = f"{server.url}/{model}"
        served = server.model(model, version)
        self.max_batch = served.max_batch
        self.spec = served.spec()
        # Without a version, the configuration does not say its version, so the first result is checked too.
        self._compatible_versions = {version} if version else set()

    def pin_version(self) -> TritonRunner:
        """Return a runner of the version that is newest now; it ignores versions that are loaded later.

        Raises the errors of the constructor.
        """
        return self if self.version else TritonRunner(self.server, self.model, self.server.version(self.model))

    def _infer(self, batch: ImageArray) -> Outputs:
        return self.server.with_retries(lambda: self._infer_checked(batch))

    def infer_encoded(self, data: bytes) -> Outputs:
        if self.spec.pipeline is None:
            return super().infer_encoded(data)
        encoded = np.array([data], np.object_)
        try:
            return decode_text(self.server.with_retries(lambda: self._infer_checked(encoded)))
        except InferenceError as error:
            if (reason := refusal_of_input(error)) is None:
                raise
            raise ImageError(reason, code="image.refused") from error

    def _infer_checked(self, batch: NDArray[Any]) -> Outputs:
        """Run a batch, or an encoded image [1], once, and check the outputs.

        Raises NotReadyError if the version is gone, InferenceError.
        """
        try:
            result = self.server.infer(self.model, self.version, self.spec, batch)
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
            got = result.outputs[output.name].shape[0 if self.spec.pipeline else 1 :]
            if not shapes_fit(got, output.shape):
                raise InferenceError(
                    f"{self.origin} version {result.version}: expected {output}, got [N, {', '.join(map(str, got))}]."
                    " The model does not match its spec; publish it again with `builder export`",
                    code="answer.shape",
                )
        return result.outputs

    def _check_version(self, version: str, images: int) -> None:
        """Check that a version has the same inputs and outputs as the opened one. Raises InferenceError."""
        title = f"version {version}" if version else "another version"
        served = self.server.model(self.model, version, wait=False)
        try:
            changed = changed_answer_fields(self.spec, served.spec())
        except InputError as error:
            raise InferenceError(
                f"{self.origin}: {title} is loaded now, and its spec cannot be read: {error}",
                code="server.version_unreadable",
            ) from error
        if 0 < served.max_batch < images:
            changed.append("max_batch_size")
        if changed:
            raise InferenceError(
                f"{self.origin}: {title} is loaded now and differs from the opened version in "
                f"{', '.join(changed)}. Run the command again to use the new version",
                code="server.version_changed",
            )

    def _not_ready_error(self, error: TritonkitError) -> NotReadyError:
        """Create the error for a model or version that is not loaded any more, with the command that helps."""
        try:
            current = self.server.version(self.model, wait=False)
        except (NotReadyError, UnknownModelError):
            current = ""
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
