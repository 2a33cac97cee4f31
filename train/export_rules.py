"""What of an export can be asked for together, found out before the training. The builder has the last word.

The words are those of `builder export`, whose side the training does not import: stages meet in files and commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FORMATS = ("onnx", "trt", "rtx", "openvino", "torchscript")
"""What can be exported to, as the options of `builder export` are named."""
ACCELERATORS = {"tensorrt": "gpu", "cuda": "gpu", "openvino": "cpu"}
"""Triton's, of ONNX models, and the instances they are for."""


def known_accelerator(word: str) -> str:
    """The word as it is. Raises ValueError where Triton's onnxruntime backend has no such accelerator."""
    name, colon, pairs = word.partition(":")
    whole = all(re.fullmatch("[^=]+=[^=]+", pair) for pair in pairs.split(",")) if colon else True
    if word != "none" and (name not in ACCELERATORS or not whole):
        raise ValueError(f"expected {', '.join(ACCELERATORS)}, or NAME:key=value,…, or none alone; got {word!r}")
    return word


def contradiction(key: str, value: Any, above: Mapping[str, Any]) -> str | None:
    """Why a key of an export cannot be so beside the keys above it."""
    named = [name for name in FORMATS if above.get(name)]
    on_cpu = above.get("kind") == "cpu"
    match key:
        case "in_container":
            return None if "trt" in named else "builds TensorRT plans; give trt and a precision"
        case "kind":
            return "a TensorRT plan runs on GPUs" if value == "cpu" and "trt" in named else None
        case "gpus":
            return "instances of kind cpu are on no GPU; take kind gpu" if on_cpu else None
        case "accelerator":
            accelerators = [word.partition(":")[0] for word in value]
            if "none" in accelerators:
                return None if len(value) == 1 else "none stands alone"
            if other := {"trt", "openvino", "torchscript"}.intersection(named):
                return f"accelerates ONNX, not {other.pop()}"
            on_gpu = [name for name in accelerators if ACCELERATORS[name] == "gpu"]
            return f"{on_gpu[0]} runs on a GPU, but kind is cpu" if on_gpu and on_cpu else None
        case _:
            return f"one format at a time; {named[0]} is named too" if named else None
