"""Triton backend `onnxruntime`, in Python: runs `model.onnx` of a model repository made for NVIDIA's own backend.

It reads the same files and the same parameters as the backend in NVIDIA's image, so one repository serves both.
It runs inside Triton's Python stub with numpy and onnxruntime, and imports nothing else.
How such backends work: github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph. An exception here is shown by Triton as the reason why the model is not ready."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / (config.get("default_model_filename") or "model.onnx")
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._session = onnxruntime.InferenceSession(str(path), _options(config), providers=_providers(args))
        _check_names("inputs", self._inputs, self._session.get_inputs(), path)
        _check_names("outputs", self._outputs, self._session.get_outputs(), path)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests Triton batched: in one run, or, where that fails, each by itself."""
        try:
            return self._answer(requests)
        except Exception as error:  # noqa: BLE001 - whatever fails, Triton needs a response for each request
            if len(requests) == 1:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime: {error}"))]
        return [response for request in requests for response in self.execute([request])]

    def _answer(self, requests: list[Any]) -> list[Any]:
        batches = [self._arrays(request) for request in requests]
        return self._respond(batches, self._run_together(batches))

    def _arrays(self, request: Any) -> list[Any]:
        return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]

    def _run_together(self, batches: list[list[Any]]) -> list[Any]:
        joined = batches[0] if len(batches) == 1 else [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        answers: list[Any] = self._session.run(self._outputs, dict(zip(self._inputs, joined, strict=True)))
        return answers

    def _respond(self, batches: list[list[Any]], answers: list[Any]) -> list[Any]:
        """Cut the joined answers where the requests were joined. One request has all of them, whatever their shape."""
        if len(batches) == 1:
            return [self._response(answers)]
        responses, start = [], 0
        for batch in batches:
            stop = start + len(batch[0])
            responses.append(self._response([array[start:stop] for array in answers]))
            start = stop
        return responses

    def _response(self, arrays: list[Any]) -> Any:
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _options(config: dict[str, Any]) -> Any:
    """The session options that NVIDIA's backend reads from the same parameters; else the instances share the cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Triton starts two instances on a CPU unless told otherwise; each with all cores, they would stall one another.
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) // max(1, instances))
    for parameter, attribute in (
        ("intra_op_thread_count", "intra_op_num_threads"),
        ("inter_op_thread_count", "inter_op_num_threads"),
    ):
        value = config.get("parameters", {}).get(parameter, {}).get("string_value")
        if value:
            setattr(options, attribute, int(value))
    # Threads that spin between requests would take the cores from Triton and its clients.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    available = onnxruntime.get_available_providers()
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _check_names(kind: str, configured: list[str], found: list[Any], path: Path) -> None:
    names = [tensor.name for tensor in found]
    if not set(configured) <= set(names):
        raise pb_utils.TritonModelException(
            f"{path}: config.pbtxt names the {kind} {configured}, the graph has {names}"
        )
