"""What a benchmark sends: images, image files, or generated values as in perf_analyzer."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.comparison import padded_order
from tritonkit.errors import DataError, InputError
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.preprocess import ImageArray, ImageError, Preprocess, load_file
from tritonkit.triton.client import TritonClient
from tritonkit.triton.served_model import ServedModel, ServedTensor

GENERATED_REQUESTS = 4
"""Number of different generated requests; they are sent in turn."""
_STRING_BYTES = 16

Arrays = Mapping[str, NDArray[Any]]
"""The inputs of one request by name, with the batch axis."""


class RequestBatches(NamedTuple):
    """Prepared requests, and a text that names the source of their values."""

    batches: Sequence[Arrays]
    images: int
    source: str
    generated: bool = False
    encoded: bool = False
    """Whether they are image files."""


class SampleImages(NamedTuple):
    """Images as uint8 [N, H, W, 3], and a text that names their source."""

    images: ImageArray
    source: str
    decode_us: float | None = None
    """Mean time to decode and resize one file, in microseconds; None for a golden sample."""


class TensorModel:
    """Runs a served model with arrays for any inputs. Thread-safe."""

    def __init__(self, client: TritonClient, served: ServedModel, version: str, first_sequence: int = 1) -> None:
        """first_sequence: the number of the first sequence. Raises InputError for a decoupled model."""
        if served.is_decoupled:
            raise InputError(
                f"{served.name}: is a decoupled model (streaming responses), which `bench run` does not measure",
                code="benchmark.decoupled_model",
            )
        self.inputs = tuple(tensor for tensor in served.inputs if not tensor.optional)
        self._client, self._model, self._version = client, served.name, version
        self._dtypes = {tensor.name: tensor.dtype for tensor in self.inputs}
        self._sequences = count(first_sequence) if served.has_sequences else None

    def infer(self, batch: Arrays) -> dict[str, NDArray[Any]]:
        """Send one request and return the outputs; with sequence batching each request is its own sequence."""
        return self._client.infer_tensors(self._model, self._version, self._typed(batch), **self._sequence())

    def prepare(self, batch: Arrays) -> list[Any]:
        """Encode a request for `send`."""
        return self._client.prepare(self._typed(batch))

    def send(self, prepared: list[Any]) -> None:
        """Send an encoded request, and do not decode the response."""
        self._client.send(self._model, self._version, prepared, **self._sequence())

    def _typed(self, batch: Arrays) -> dict[str, tuple[str, NDArray[Any]]]:
        return {name: (self._dtypes[name], values) for name, values in batch.items()}

    def _sequence(self) -> dict[str, Any]:
        if self._sequences is None:
            return {}
        return {"sequence_id": next(self._sequences), "sequence_start": True, "sequence_end": True}


class PreparedModel:
    """Sends requests that were encoded before the load, as perf_analyzer does: the client takes less time from it."""

    def __init__(self, model: TensorModel) -> None:
        self._model = model

    def infer(self, prepared: list[Any]) -> None:
        """Send an encoded request, and do not decode the response."""
        self._model.send(prepared)


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse `--shape NAME:3,224,224`, as in perf_analyzer. Raises InputError."""
    shapes = {}
    for option in options:
        name, _, sizes = option.rpartition(":")
        size_texts = sizes.split(",")
        if not name or not all(size.isdecimal() and int(size) for size in size_texts):
            raise InputError(
                f"--shape {option}: expected NAME:SIZES without the batch axis, such as input:3,224,224",
                code="option.shape",
            )
        shapes[name] = tuple(map(int, size_texts))
    return shapes


def accepts_image_files(model: TensorModel) -> bool:
    """Whether the only input is one string per batch element, which may be an image file."""
    return [(model_input.dtype, model_input.dims) for model_input in model.inputs] in (
        [("BYTES", (1,))],
        [("BYTES", ())],
    )


def load_sample_images(preprocess: Preprocess, folder: Path | None, version_folder: Path) -> SampleImages:
    """Load up to 32 images from `folder`, or the golden sample of a version folder.

    Raises InputError without images, DataError for an unreadable image, ArtifactError for a broken golden sample.
    """
    if folder is None:
        golden = version_folder / GOLDEN_FILE
        if not golden.is_file():
            raise InputError(
                f"{golden}: no such file, so there are no images to send; name the served repository with "
                "--repository, or a folder of images with --images",
                code="benchmark.no_images",
            )
        sample = Golden.load(golden)
        return SampleImages(sample.images, f"{sample.source} ({golden})")
    images, paths = [], _sample_files(folder)
    start_ns = time.perf_counter_ns()
    for path in paths:
        try:
            images.append(load_file(path, preprocess)[0])
        except ImageError as error:
            raise DataError(f"{path}: {error}; remove it from --images {folder}", code="image.unreadable") from error
    decode_us = (time.perf_counter_ns() - start_ns) / len(paths) / 1e3
    return SampleImages(np.stack(images), str(folder), decode_us)


def batches_of(images: ImageArray, size: int) -> list[ImageArray]:
    """Split images into batches uint8 [size, H, W, 3]; the last batch is filled from the first images."""
    order = np.arange(-(-len(images) // size) * size) % len(images)
    return [np.ascontiguousarray(images[chosen]) for chosen in order.reshape(-1, size)]


def image_file_requests(
    model: TensorModel, batch: int, has_batch_axis: bool, folder: Path | None, version_folder: Path
) -> RequestBatches:
    """Make requests of up to 32 image files of `folder`, or of the golden sample of a version folder, as PNG.

    has_batch_axis: whether the inputs have a batch axis; without one, batch is 1.
    Raises InputError without images, ArtifactError for a broken golden sample.
    """
    if folder is None:
        sample = Golden.load(version_folder / GOLDEN_FILE)
        files, source = [], f"{sample.source} as PNG ({version_folder / GOLDEN_FILE})"
        for image in sample.images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            files.append(buffer.getvalue())
    else:
        files, source = [path.read_bytes() for path in _sample_files(folder)], f"files of {folder}"
    (model_input,) = model.inputs
    order = padded_order(len(files), batch).reshape(-1, batch)
    shape = (*((batch,) if has_batch_axis else ()), *model_input.dims)
    batches = [
        {model_input.name: np.array([files[index] for index in row], np.object_).reshape(shape)} for row in order
    ]
    return RequestBatches(batches, len(files), source, encoded=True)


def generate_requests(
    model: TensorModel, batch: int, has_batch_axis: bool, shapes: Mapping[str, tuple[int, ...]], model_url: str
) -> RequestBatches:
    """Make requests of random values: floats in [0, 1), integers 0 or 1 (UINT8 0 to 255), strings of letters.

    has_batch_axis: whether the inputs have a batch axis. Raises InputError for a dynamic size that is not in `shapes`.
    """
    if unknown := sorted(set(shapes) - {model_input.name for model_input in model.inputs}):
        present = ", ".join(map(str, model.inputs)) or "none"
        raise InputError(
            f"--shape: {model_url} has no input {', '.join(unknown)}; it has {present}",
            code="benchmark.unknown_input",
        )
    random = np.random.default_rng(0)
    sizes = {
        model_input.name: _resolve_sizes(model_input, shapes.get(model_input.name), model_url)
        for model_input in model.inputs
    }
    batch_axis = (batch,) if has_batch_axis else ()
    requests = [
        {
            model_input.name: _random_values(random, model_input.dtype, (*batch_axis, *sizes[model_input.name]))
            for model_input in model.inputs
        }
        for _ in range(GENERATED_REQUESTS)
    ]
    description = ", ".join(
        f"{model_input.name} {model_input.dtype} {list(sizes[model_input.name])}" for model_input in model.inputs
    )
    return RequestBatches(requests, GENERATED_REQUESTS * batch, f"generated: {description}", generated=True)


def _resolve_sizes(model_input: ServedTensor, shape: tuple[int, ...] | None, model_url: str) -> tuple[int, ...]:
    if shape is None and -1 not in model_input.dims:
        return model_input.dims
    example = ",".join(str(dim) if dim > 0 else "224" for dim in model_input.dims)
    if shape is None:
        raise InputError(
            f"{model_url}: {model_input} has dynamic sizes; set them with --shape {model_input.name}:{example}",
            code="benchmark.dynamic_sizes",
        )
    if len(shape) != len(model_input.dims) or any(
        dim not in (-1, size) for dim, size in zip(model_input.dims, shape, strict=True)
    ):
        raise InputError(
            f"--shape {model_input.name}:{','.join(map(str, shape))}: does not fit {model_input} of {model_url}",
            code="benchmark.shape_mismatch",
        )
    return shape


def _random_values(random: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    from tritonclient.utils import triton_to_np_dtype

    if dtype == "BYTES":
        words = ["".join(letters) for letters in random.choice(list("abcdefgh"), (int(np.prod(shape)), _STRING_BYTES))]
        return np.array([word.encode() for word in words], np.object_).reshape(shape)
    numpy_type = triton_to_np_dtype(dtype)
    if numpy_type is None:
        raise InputError(
            f"inputs of type {dtype} cannot be generated; expected a number or BYTES", code="benchmark.unknown_type"
        )
    if np.issubdtype(numpy_type, np.floating):
        return random.random(shape, np.float32).astype(numpy_type)
    return random.integers(0, 256 if dtype == "UINT8" else 2, shape).astype(numpy_type)


def _sample_files(folder: Path) -> list[Path]:
    """Return up to 32 images of a folder. Raises InputError without images."""
    paths = pictures_below(folder)[:MAX_IMAGES]
    if not paths:
        raise InputError(
            f"--images {folder}: contains no images; expected files such as *.jpg or *.png",
            code="benchmark.empty_folder",
        )
    return paths
