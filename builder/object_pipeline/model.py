"""Triton model of the Python backend that finds and classifies objects: an encoded image in, its objects out.

`builder pipeline` copies this file into the version folder, with the files of tritonkit that it needs and
`pipeline.json`, the settings. It runs inside Triton's Python stub with numpy, Pillow, scipy and pycocotools, and calls
two models of the same Triton. Documentation: github.com/triton-inference-server/python_backend, README.md, "Business
Logic Scripting".
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

_PACKAGE = "tritonkit_pipeline"
"""The package name of the files next to this one: Triton's path could contain another `pipeline`."""


class TritonPythonModel:
    """Answers one request at a time; several instances answer several."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings. Without its libraries the model loads, and each request gets an error.

        A model that does not load would prevent Triton from starting, and with it models that need no libraries.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        self._input, self._outputs = config["input"][0]["name"], [output["name"] for output in config["output"]]
        self._missing = ""
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            steps = _import_from(folder, "pipeline")
        except ImportError as error:
            self._missing = (
                f"{args['model_name']}: Triton's Python lacks a library ({error}); install pillow, scipy and "
                "pycocotools there"
            )
            pb_utils.Logger.log_error(self._missing)
            return
        settings = json.loads((folder / "pipeline.json").read_bytes())
        segment = partial(_infer, settings["segmenter"]["model"], "mask")
        classify = partial(_infer, settings["classifier"]["model"], "probabilities")
        self._pipeline = steps.Pipeline(settings, segment, classify, parameters.get("decoded_pixels", ""))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, one after the other; a request that fails does not stop others."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        if self._missing:
            return _error_response(self._missing, pb_utils.TritonError.UNAVAILABLE)
        try:
            (data,) = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().ravel()
            outputs = self._pipeline.answer(data)
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in self._outputs])
        except _MemberError as failure:
            return _error_response(str(failure), failure.code)
        except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
            if self._pipeline.is_refusal(error):
                return _error_response(str(error), pb_utils.TritonError.INVALID_ARG)
            return _error_response(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


class _MemberError(Exception):
    """A model that the pipeline calls could not answer."""

    def __init__(self, message: str, code: Any) -> None:
        super().__init__(message)
        self.code = code


def _infer(model: str, output: str, batch: Any) -> Any:
    """Run the version of a model that Triton serves. Raises _MemberError."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[pb_utils.Tensor("image", batch)],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    try:
        response = request.exec()
    except pb_utils.TritonModelException as error:  # such as a model that is not loaded
        raise _MemberError(f"{model}: {error}", pb_utils.TritonError.UNAVAILABLE) from error
    if response.has_error():
        # A refused batch is not the fault of the client's image.
        code = response.error().code()
        code = pb_utils.TritonError.INTERNAL if code == pb_utils.TritonError.INVALID_ARG else code
        raise _MemberError(f"{model}: {response.error().message()}", code)
    return pb_utils.get_output_tensor_by_name(response, output).as_numpy()


def _error_response(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _import_from(folder: Path, name: str) -> Any:
    """Import a module of the version folder. Raises ImportError where a package that it needs is missing."""
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(_PACKAGE, package)
    return importlib.import_module(f"{_PACKAGE}.{name}")
