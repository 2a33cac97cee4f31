"""A checkpoint: one `.safetensors` file with the weights, and the ModelSpec in its header.

Opening a checkpoint runs no code from the file and needs no torch. Format: github.com/huggingface/safetensors.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import CheckpointError
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import atomic_write

Weights = dict[str, NDArray[Any]]

_NOT_IN_NUMPY = ("BF16", "F8_", "F6_", "F4")


def write_checkpoint(path: Path, spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> None:
    """Write weights and spec to one file, atomically. Raises OSError that names the file."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # np.ascontiguousarray would add an axis to a scalar.
    contiguous = {key: np.asarray(array, order="C") for key, array in weights.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={METADATA_KEY: spec.to_json()})
        except SafetensorError as error:
            raise OSError(errno.EIO, f"cannot be written, is the disk full? ({error})", str(path)) from error


def read_spec(path: Path) -> ModelSpec:
    """Read the ModelSpec of a checkpoint. Raises CheckpointError, SpecError."""
    with _open_checkpoint(path) as file:
        metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: has weights but no model spec, so it was not written by `train`. To use third-party weights: "
            f"builder export {path} --model TIMM_NAME --labels FILE",
            code="checkpoint.no_spec",
        )
    return ModelSpec.from_json(metadata[METADATA_KEY], origin=str(path))


def has_spec(path: Path) -> bool:
    """Whether a `.safetensors` file is a checkpoint of tritonkit. Raises CheckpointError if it cannot be read."""
    with _open_checkpoint(path) as file:
        return METADATA_KEY in (file.metadata() or {})


def read_weights(path: Path) -> Weights:
    """Read all tensors of a `.safetensors` file, by name. Raises CheckpointError."""
    weights: Weights = {}
    with _open_checkpoint(path) as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            dtype: str = file.get_slice(key).get_dtype()
            if dtype.startswith(_NOT_IN_NUMPY):
                raise CheckpointError(
                    f"{path}: {key} has type {dtype}, which numpy lacks; save the weights as float32",
                    code="checkpoint.dtype",
                )
            weights[key] = file.get_tensor(key)
    return weights


def _open_checkpoint(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if (best := path / "best.safetensors").is_file():
        raise CheckpointError(
            f"{path}: is the folder of a training run; pass its checkpoint, {best}", code="checkpoint.run_folder"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint", code="checkpoint.not_found")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable .safetensors file ({error})", code="checkpoint.unreadable"
        ) from error
