"""The interface of all runners: `infer(batch) -> outputs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError, BatchError, InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import ModelSpec, Outputs


class Runner(ABC):
    """A model that is open in one runtime. Thread-safe."""

    spec: ModelSpec
    origin: str
    """File or server address, for messages."""
    max_batch: int | None = None
    """Maximum batch size; None for no limit."""

    def infer(self, batch: ImageArray) -> Outputs:
        """Run the model on a batch and return its outputs, each [N, ...]; text is of numpy's type str.

        batch: uint8 [N, H, W, 3], with the height and width of the spec's input.
        Raises BatchError for another shape or dtype, InferenceError if the server or device fails.
        """
        if self.spec.pipeline is not None:
            raise pipeline_error(self.spec, self.origin)
        expected = self.spec.input.shape
        if batch.dtype != "uint8" or batch.shape[1:] != expected or not len(batch):
            raise BatchError(
                f"{self.origin}: input {self.spec.input}: expected uint8 [N, {', '.join(map(str, expected))}], "
                f"got {batch.dtype} {list(batch.shape)}. Prepare images with tritonkit.images.preprocess.load_image",
                code="batch.shape",
            )
        outputs = self._infer(np.require(batch, requirements=["C", "W"]))  # torch requires this memory layout
        return decode_text(outputs)

    def infer_encoded(self, data: bytes) -> Outputs:
        """Answer a whole image file by a pipeline; its outputs have no batch axis.

        Raises ImageError if the image cannot be read, BatchError if the model is no pipeline, InferenceError.
        """
        raise BatchError(
            f"{self.origin}: takes {self.spec.input}, not a whole image file; only a served pipeline does",
            code="batch.not_a_pipeline",
        )

    @abstractmethod
    def _infer(self, batch: ImageArray) -> Outputs: ...

    def _failed_error(self, batch: ImageArray, reason: object) -> ArtifactError:
        """Create the error for a batch that the library could not run."""
        return ArtifactError(
            f"{self.origin}: inference failed on a batch of {len(batch)}: {reason}", code="artifact.run_failed"
        )

    def close(self) -> None:  # noqa: B027 - most runners have nothing to release
        """Release the model's resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def pipeline_error(spec: ModelSpec, origin: str) -> InputError:
    """Create the error for work that needs pixels as input, with a pipeline, which takes whole image files."""
    called = " or ".join(member.model for member in spec.pipeline.members) if spec.pipeline else ""
    return InputError(
        f"{origin}: is a pipeline, which takes whole image files and answers them with `client infer`; for this, use a "
        f"model that it calls: {called}",
        code="pipeline.not_supported",
    )


def decode_text(outputs: Outputs) -> Outputs:
    """Return the outputs of a runtime with its text, Python objects, as numpy's type str."""
    return {name: _as_text(array) if array.dtype == object else array for name, array in outputs.items()}


def _as_text(array: NDArray[Any]) -> NDArray[np.str_]:
    """Convert the text of a runtime to numpy's: ONNX Runtime returns str objects, tritonclient bytes."""
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(texts, np.str_).reshape(array.shape)


def spec_of_artifact(text: str | None, origin: str) -> ModelSpec:
    """Parse the spec that a file contains. Raises ArtifactError for a file without one, SpecError."""
    if not text:
        raise ArtifactError(
            f"{origin}: contains no model spec; export the model with `builder export`", code="artifact.no_spec"
        )
    return ModelSpec.from_json(text, origin=origin)
