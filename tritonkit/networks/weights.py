"""Third-party weights, read without running code from their file."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tritonkit.checkpoint import has_spec, read_spec, read_weights
from tritonkit.errors import CheckpointError
from tritonkit.spec import Architecture

State = dict[str, Tensor]

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Keys of the moving average of the weights, which training frameworks evaluate and publish."""
_STATE_KEYS = (*_AVERAGED, "state_dict", "model_state_dict", "model")
_LAST_LAYER = {"fc", "classifier", "head", "last_linear", "linear"}
_UNREADABLE = (
    "not a readable PyTorch checkpoint: it is damaged, or another kind of file; expected a state dict as torch.save "
    "writes it"
)
# Classes that training frameworks store next to weights, and whose construction has no effect. Add no others.
_ALLOWED_CLASSES: list[Any] = [
    argparse.Namespace,
    PosixPath,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]


@dataclass(frozen=True)
class ForeignWeights:
    """The tensors of a file, and the name of their network if the file contains it."""

    state: State
    architecture: str | None = None
    """The value of `arch` in the file."""
    note: str = ""
    """Which of several state dicts was used; empty if there is one."""
    pruned: Architecture | None = None
    """The architecture of our checkpoint from which channels were removed."""


def read_foreign_weights(path: Path) -> State:
    """Read the tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file. Raises CheckpointError."""
    return read_foreign(path).state


def read_foreign(path: Path) -> ForeignWeights:
    """Read the tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file, and the network's name.

    Lightning, timm and others store the state dict under a key, next to their own state. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint", code="checkpoint.not_found")
    if path.suffix == ".safetensors":
        state = {_current_key(key): torch.from_numpy(array) for key, array in read_weights(path).items()}
        spec = read_spec(path) if has_spec(path) else None
        return ForeignWeights(state, pruned=spec.architecture if spec and spec.architecture.pruned else None)
    try:
        with torch.serialization.safe_globals(_ALLOWED_CLASSES), warnings.catch_warnings(action="ignore"):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickled = file.read(4).startswith((b"\x80", b"PK"))
        if not is_pickled:
            raise CheckpointError(f"{path}: {_UNREADABLE}", code="checkpoint.unreadable") from error
        try:
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # noqa: BLE001 - the oldest formats raise various errors
            classes = []
        examples = f" ({', '.join(sorted(classes)[:4])}{', …' if len(classes) > 4 else ''})" if classes else ""
        raise CheckpointError(
            f"{path}: contains pickled Python objects{examples}, which can run code and are not loaded. Where the file "
            "was written, save only the weights: torch.save(model.state_dict(), FILE) or safetensors; for a Lightning "
            'checkpoint, torch.save(checkpoint["state_dict"], FILE).',
            code="checkpoint.pickled_code",
        ) from error
    except Exception as error:  # a damaged file can raise any error
        raise CheckpointError(f"{path}: {_UNREADABLE}", code="checkpoint.unreadable") from error
    state, note = _find_state(document, path)
    architecture = document.get("arch") if isinstance(document, Mapping) else None
    return ForeignWeights(state, architecture if isinstance(architecture, str) else None, note)


def class_count(state: State) -> tuple[int, str] | None:
    """Return the number of outputs of the last layer and the name of its weight; None if there is no such layer.

    The last layer has a usual name such as `fc`; otherwise it is the last one in the file.
    """
    layers = [
        (int(tensor.shape[0]), key)
        for key, tensor in state.items()
        if key.endswith("weight") and tensor.ndim >= 2 and key.removesuffix("weight") + "bias" in state
    ]
    usual = [layer for layer in layers if _LAST_LAYER.intersection(layer[1].split(".")[-3:])]
    return (usual or layers)[-1] if layers else None


def _find_state(document: Any, path: Path) -> tuple[State, str]:
    """Return the tensors of a document, and a note if one of several state dicts was selected."""
    if isinstance(document, Mapping):
        nested = {key: found for key in _STATE_KEYS if (found := _tensors(document.get(key)))}
        state = next(iter(nested.values())) if nested else _tensors(document)
        if len(nested) > 1:
            selected, *others = nested
            description = "the moving average of the weights " if selected in _AVERAGED else "the state dict "
            return state, f"{description}in {selected!r} is used, not {' or '.join(map(repr, others))}"
        if state:
            return state, ""
    raise CheckpointError(
        f"{path}: contains no state dict (a mapping of names to tensors)", code="checkpoint.no_state_dict"
    )


def _tensors(document: Any) -> State:
    if not isinstance(document, Mapping):
        return {}
    return {_current_key(str(key)): value for key, value in document.items() if isinstance(value, Tensor)}


def _current_key(key: str) -> str:
    """Return a tensor's current name: torchvision's DenseNet files have names of its first release, as `norm.1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
