"""Requests for models that take no pixels: picture files, or generated values, as perf_analyzer sends them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.comparison import places
from model.encoded import ENCODED_OF
from model.errors import InputError
from model.golden import GOLDEN_FILE, MAX_IMAGES, Golden
from model.picture_files import pictures_below
from model.runners.triton import TritonServer

DIFFERENT = 4
"""Generated requests, sent over and over."""
_STRING_BYTES = 16
_NUMPY: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}").type for sign in ("", "U") for bits in (8, 16, 32, 64)},
}

Arrays = Mapping[str, NDArray[Any]]
"""The inputs of one request by name, the batch axis included."""


class Input(NamedTuple):
    """An input of a served model."""

    name: str
    dtype: str
    """Triton's word for it on the wire, such as FP32 or BYTES."""
    dims: tuple[int, ...]
    """Without the batch axis of a model that has one; -1 is a size that is not fixed."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.dims))}]"


class Requests(NamedTuple):
    """Ready-made requests, and where their values come from, in words."""

    batches: Sequence[Arrays]
    images: int
    source: str
    generated: bool = False


class TensorModel:
    """A served model of any inputs, to be asked with arrays. Safe to use from several threads."""

    def __init__(self, server: TritonServer, model: str, version: str, config: Mapping[str, Any]) -> None:
        """config: as the server tells it. Raises InputError for a model that does not answer request by request."""
        if config.get("model_transaction_policy", {}).get("decoupled"):
            raise InputError(f"{model}: answers in streams (decoupled), which `bench run` does not measure")
        self.inputs = tuple(_input(entry) for entry in config.get("input", []) if not entry.get("optional"))
        self._server, self._model, self._version = server, model, version
        self._types = {one.name: one.dtype for one in self.inputs}
        self._sequences = count(1) if "sequence_batching" in config else None

    def infer(self, batch: Arrays) -> dict[str, NDArray[Any]]:
        """Ask once, and return the outputs; with sequence batching, each request is a sequence of its own."""
        sequence = {}
        if self._sequences is not None:
            sequence = {"sequence_id": next(self._sequences), "sequence_start": True, "sequence_end": True}
        inputs = {name: (self._types[name], values) for name, values in batch.items()}
        return self._server.infer_tensors(self._model, self._version, inputs, **sequence)


def shapes_from(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read `--shape NAME:3,224,224`, as perf_analyzer has it. Raises InputError."""
    shapes = {}
    for option in options:
        name, _, sizes = option.rpartition(":")
        listed = sizes.split(",")
        if not name or not all(size.isdecimal() and int(size) for size in listed):
            raise InputError(f"--shape {option}: expected NAME:SIZES without the batch, such as input:3,224,224")
        shapes[name] = tuple(map(int, listed))
    return shapes


def takes_files(model: TensorModel) -> bool:
    """Whether each element of a batch is one string, which may be a picture file."""
    return [(one.dtype, one.dims) for one in model.inputs] in ([("BYTES", (1,))], [("BYTES", ())])


def owner_of(config: Mapping[str, Any]) -> str:
    """The model that one with this configuration decodes for; empty for any other."""
    return str(config.get("parameters", {}).get(ENCODED_OF, {}).get("string_value", ""))


def picture_files(model: TensorModel, batch: int, folder: Path | None, published: Path) -> Requests:
    """Up to 32 pictures of `folder` as they are, else the golden sample of the `published` version as PNG.

    Raises InputError where there are neither, ArtifactError for a broken golden sample.
    """
    if folder is None:
        sample = Golden.load(published / GOLDEN_FILE)
        files, source = [_png(image) for image in sample.images], f"{sample.source} as PNG ({published / GOLDEN_FILE})"
    else:
        files, source = [path.read_bytes() for path in pictures_below(folder)[:MAX_IMAGES]], f"files of {folder}"
    if not files:
        raise InputError(f"--images {folder}: no pictures in it; expected files like *.jpg or *.png")
    (only,) = model.inputs
    order = places(len(files), batch).reshape(-1, batch)
    shape = (batch, *only.dims)
    batches = [{only.name: np.array([files[at] for at in row], np.object_).reshape(shape)} for row in order]
    return Requests(batches, len(files), source)


def generated(
    model: TensorModel, batch: int, batches: bool, shapes: Mapping[str, tuple[int, ...]], origin: str
) -> Requests:
    """Made-up values of the inputs' types: floats in [0, 1), integers 0 or 1 (UINT8 0 to 255), strings of letters.

    batches: whether a batch axis comes before the inputs' own. Raises InputError for sizes that are neither fixed nor
    among `shapes`.
    """
    if strangers := sorted(set(shapes) - {one.name for one in model.inputs}):
        raise InputError(f"--shape: {origin} has no input {', '.join(strangers)}; it has {_listed(model.inputs)}")
    random = np.random.default_rng(0)
    sizes = {one.name: _sizes(one, shapes.get(one.name), origin) for one in model.inputs}
    lead = (batch,) if batches else ()
    made = [
        {one.name: _values(random, one.dtype, (*lead, *sizes[one.name])) for one in model.inputs}
        for _ in range(DIFFERENT)
    ]
    described = ", ".join(f"{one.name} {one.dtype} {list(sizes[one.name])}" for one in model.inputs)
    return Requests(made, DIFFERENT * batch, f"generated: {described}", generated=True)


def _input(entry: Mapping[str, Any]) -> Input:
    dtype = entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    return Input(entry["name"], dtype, tuple(map(int, entry.get("dims", []))))


def _sizes(one: Input, shape: tuple[int, ...] | None, origin: str) -> tuple[int, ...]:
    if shape is None and -1 not in one.dims:
        return one.dims
    example = ",".join(str(dim) if dim > 0 else "224" for dim in one.dims)
    if shape is None:
        raise InputError(f"{origin}: {one} has free sizes; give them with --shape {one.name}:{example}")
    if len(shape) != len(one.dims) or any(dim not in (-1, size) for dim, size in zip(one.dims, shape, strict=True)):
        raise InputError(f"--shape {one.name}:{','.join(map(str, shape))}: does not fit {one} of {origin}")
    return shape


def _values(random: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype == "BYTES":
        words = ["".join(letters) for letters in random.choice(list("abcdefgh"), (int(np.prod(shape)), _STRING_BYTES))]
        return np.array([word.encode() for word in words], np.object_).reshape(shape)
    if dtype not in _NUMPY:
        raise InputError(f"inputs of type {dtype} cannot be generated; expected BYTES or one of {', '.join(_NUMPY)}")
    kind = _NUMPY[dtype]
    if dtype.startswith("FP"):
        return random.random(shape, np.float32).astype(kind)
    return random.integers(0, 256 if dtype == "UINT8" else 2, shape).astype(kind)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(map(str, inputs)) or "none"
