"""Rules on which export options can be combined, checked before the training. The builder checks them again.

The names are those of `builder export`. Training does not import the builder: they share files and commands only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FORMATS = ("onnx", "trt", "rtx", "openvino", "torchscript")
"""Export formats, named as the options of `builder export`."""
ACCELERATORS = {"tensorrt": "gpu", "cuda": "gpu", "openvino": "cpu"}
"""Triton's accelerators for ONNX models, and the instance kind that each needs."""


def check_accelerator(text: str) -> str:
    """Return the text unchanged. Raises ValueError if Triton's onnxruntime backend has no such accelerator."""
    name, colon, pairs = text.partition(":")
    is_complete = all(re.fullmatch("[^=]+=[^=]+", pair) for pair in pairs.split(",")) if colon else True
    if text != "none" and (name not in ACCELERATORS or not is_complete):
        raise ValueError(f"expected {', '.join(ACCELERATORS)}, or NAME:key=value,…, or only none; got {text!r}")
    return text


def export_contradiction(key: str, value: Any, earlier: Mapping[str, Any]) -> str | None:
    """Say why an export option contradicts the options before it; None if it does not."""
    formats = [name for name in FORMATS if earlier.get(name)]
    on_cpu = earlier.get("kind") == "cpu"
    match key:
        case "in_container":
            return None if "trt" in formats else "builds TensorRT plans; set trt to a precision"
        case "kind":
            return "a TensorRT plan runs on GPUs" if value == "cpu" and "trt" in formats else None
        case "gpus":
            return "instances of kind cpu use no GPU; set kind to gpu" if on_cpu else None
        case "accelerator":
            accelerators = [text.partition(":")[0] for text in value]
            if "none" in accelerators:
                return None if len(value) == 1 else "none cannot be combined with other accelerators"
            if other := {"trt", "openvino", "torchscript"}.intersection(formats):
                return f"is for ONNX, not for {other.pop()}"
            on_gpu = [name for name in accelerators if ACCELERATORS[name] == "gpu"]
            return f"{on_gpu[0]} runs on a GPU, but kind is cpu" if on_gpu and on_cpu else None
        case _:
            return f"choose one format; {formats[0]} is set too" if formats else None
