"""Someone else's weights, read without running their code."""

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

from model.checkpoint import read_weights
from model.errors import CheckpointError

State = dict[str, Tensor]

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Where trainers keep the moving average of the weights, which they evaluate and ship."""
_STATE_KEYS = (*_AVERAGED, "state_dict", "model_state_dict", "model")
_LAST_LAYER = {"fc", "classifier", "head", "last_linear", "linear"}
_UNREADABLE = (
    "not a readable PyTorch checkpoint: it is damaged, or another kind of file; expected a state dict as torch.save "
    "writes it"
)
# Values that trainers leave beside weights, and that do nothing when they are made. Nothing else is ever added here.
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
    """The tensors of a file, and what it says of the network they are for."""

    state: State
    architecture: str | None = None
    """Trainers write it as `arch`."""
    note: str = ""
    """Which of several states was taken, empty where there is one."""


def read_foreign_weights(path: Path) -> State:
    """The tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file. Raises CheckpointError."""
    return read_foreign(path).state


def read_foreign(path: Path) -> ForeignWeights:
    """The tensors of a `.pth`, `.pt`, `.ckpt` or `.safetensors` file: a plain state dict, or that of a trainer.

    Lightning, timm and others keep it under a key, beside their own state. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return ForeignWeights({_current_key(key): torch.from_numpy(array) for key, array in read_weights(path).items()})
    try:
        with torch.serialization.safe_globals(_ALLOWED_CLASSES), warnings.catch_warnings(action="ignore"):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unsafe_message(path) if _is_pickled(path) else f"{path}: {_UNREADABLE}") from error
    except Exception as error:  # a damaged file fails wherever the reader happens to be
        raise CheckpointError(f"{path}: {_UNREADABLE}") from error
    state, note = _find_state(document, path)
    architecture = document.get("arch") if isinstance(document, Mapping) else None
    return ForeignWeights(state, architecture if isinstance(architecture, str) else None, note)


def class_count(state: State) -> tuple[int, str] | None:
    """How many values the last layer gives, and the name of its weight; None where none is to be seen.

    It is a layer with a name that libraries give their last one, else the last in the file.
    """
    layers = [
        (int(tensor.shape[0]), key)
        for key, tensor in state.items()
        if key.endswith("weight") and tensor.ndim >= 2 and key.removesuffix("weight") + "bias" in state
    ]
    named = [layer for layer in layers if _LAST_LAYER.intersection(layer[1].split(".")[-3:])]
    return (named or layers)[-1] if layers else None


def _is_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", b"PK"))


def _unsafe_message(path: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - of the oldest formats it cannot tell, in many ways
        found = []
    named = f" ({', '.join(sorted(found)[:4])}{', …' if len(found) > 4 else ''})" if found else ""
    return (
        f"{path}: holds pickled Python objects{named}, which can run code and are not loaded. Save the weights alone, "
        "torch.save(model.state_dict(), FILE) or safetensors, where the file comes from; of a Lightning checkpoint, "
        'torch.save(checkpoint["state_dict"], FILE).'
    )


def _find_state(document: Any, path: Path) -> tuple[State, str]:
    """The tensors of a document; and, where it holds several states, which of them they are."""
    if isinstance(document, Mapping):
        nested = {key: found for key in _STATE_KEYS if (found := _tensors(document.get(key)))}
        state = next(iter(nested.values())) if nested else _tensors(document)
        if len(nested) > 1:
            taken, *left = nested
            what = "the moving average of the weights " if taken in _AVERAGED else ""
            return state, f"{what}in {taken!r} is taken, not {' or '.join(map(repr, left))}"
        if state:
            return state, ""
    raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")


def _tensors(document: Any) -> State:
    if not isinstance(document, Mapping):
        return {}
    return {_current_key(str(key)): value for key, value in document.items() if isinstance(value, Tensor)}


def _current_key(key: str) -> str:
    """A tensor's present name; torchvision's files of DenseNet have those of its first release, as `norm.1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
