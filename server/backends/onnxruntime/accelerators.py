"""Turns execution accelerators of `config.pbtxt` into ONNX Runtime providers, as NVIDIA's onnxruntime backend does.

Source: triton-inference-server/onnxruntime_backend, src/onnxruntime.cc, `ModelState::LoadModel`. GPU accelerators
apply to instances on a GPU and are ignored by others; CPU accelerators apply to all. The model fails to load with an
unknown accelerator, or one that this ONNX Runtime does not contain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

Provider = tuple[str, dict[str, Any]]
"""A provider's name in ONNX Runtime, and its options."""

_TENSORRT, _CUDA, _OPENVINO = "TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"
_PRECISION_MODES: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_TENSORRT_OPTIONS = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}


def providers_for(config: Mapping[str, Any], args: Mapping[str, str], available: Collection[str]) -> list[Provider]:
    """Return the providers of one instance, in order of preference.

    config: the model configuration. args: Triton's arguments of `initialize`. Raises TritonModelException.
    """
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    gpu_entries, cpu_entries = (accelerators.get(f"{kind}_execution_accelerator", []) for kind in ("gpu", "cpu"))
    on_gpu = args["model_instance_kind"] == "GPU"
    if gpu_entries and not on_gpu:
        names = ", ".join(entry["name"] for entry in gpu_entries)
        pb_utils.Logger.log_warn(
            f"{config.get('name')}: {names} applies to GPU instances; this instance runs on the CPU"
        )
    providers = [_gpu_provider(entry, args["model_instance_device_id"]) for entry in gpu_entries if on_gpu]
    if on_gpu and _CUDA in available and _CUDA not in [name for name, _ in providers]:
        providers.append((_CUDA, {"device_id": args["model_instance_device_id"]}))
    providers.sort(key=lambda provider: provider[0] == _CUDA)  # CUDA is the fallback of the other providers
    for entry in cpu_entries:
        if entry["name"] != "openvino":
            raise _unknown_accelerator_error(entry)
        providers.append((_OPENVINO, {"device_type": "CPU"}))
    for name, _ in providers:
        if name not in available:
            raise pb_utils.TritonModelException(
                f"the execution accelerator {name} is not in this ONNX Runtime, which has {', '.join(available)}; "
                "serve with NVIDIA's image, or remove it from config.pbtxt (optimization.execution_accelerators)"
            )
    return [*providers, ("CPUExecutionProvider", {})]


def _gpu_provider(entry: Mapping[str, Any], device: str) -> Provider:
    parameters: dict[str, str] = entry.get("parameters", {})
    if entry["name"] == "cuda":
        return _CUDA, {**parameters, "device_id": device}
    if entry["name"] != "tensorrt":
        raise _unknown_accelerator_error(entry)
    options: dict[str, Any] = {"device_id": device}
    for name, value in parameters.items():
        if name == "precision_mode" and value in _PRECISION_MODES:
            options |= _PRECISION_MODES[value]
        elif name in _TENSORRT_OPTIONS or name.startswith("trt_"):
            options[_TENSORRT_OPTIONS.get(name) or name] = value
        else:
            raise pb_utils.TritonModelException(f"execution accelerator tensorrt: unknown parameter {name} = {value!r}")
    return _TENSORRT, options


def _unknown_accelerator_error(entry: Mapping[str, Any]) -> Exception:
    error: Exception = pb_utils.TritonModelException(f"unknown execution accelerator {entry['name']!r}")
    return error
