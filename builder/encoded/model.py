"""Triton model of the Python backend that decodes images: encoded files in, the input of the model out.

`builder export` copies this file into the version folder of `NAME_decode`, with `preprocess.py`, the files that it
imports and `pixel_budget.py`, which are the files that tritonkit itself decodes with, and `preprocess.json`, the
`Preprocess` of the model. It runs inside Triton's Python stub with numpy and Pillow.
Documentation of such models: github.com/triton-inference-server/python_backend, README.md.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from tritonkit.images.preprocess import ImageArray

_PACKAGE = "tritonkit_decoder"
"""The package name of the files next to this one: Triton's path could contain another `preprocess`."""


class TritonPythonModel:
    """Decodes in threads. One instance is enough: Pillow releases Python's lock while it decodes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the preprocessing. Without Pillow the model loads, and each request gets an error.

        A model that does not load would prevent Triton from starting, and with it models that need no Pillow.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        threads = int(parameters.get("decoders") or len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._missing = ""
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            decoder = _import_from(folder, "decoder")
        except ImportError as error:
            self._missing = (
                f"{args['model_name']}: Triton's Python has no Pillow ({error}); install it there, or send uint8 "
                "pixels to the model itself"
            )
            pb_utils.Logger.log_error(self._missing)
            return
        preprocess = json.loads((folder / "preprocess.json").read_bytes())
        self._decoder = decoder.Decoder(preprocess, threads, parameters.get("decoded_pixels", ""))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests. All images are decoded in parallel; a request that fails does not stop others."""
        if self._missing:
            return [_error_response(self._missing, pb_utils.TritonError.UNAVAILABLE) for _ in requests]
        pending = [self._submit(request) for request in requests]
        return [self._response(result) if isinstance(result, list) else result for result in pending]

    def finalize(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, request: Any) -> Any:
        """The futures of a request's images, [N, 1], or an error response where the request cannot be read."""
        try:
            images = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().ravel()
            return [self._pool.submit(self._decoder.decode, data) for data in images]
        except Exception as error:  # noqa: BLE001 - only this request may fail, not the batch
            return _error_response(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _response(self, images: list[Future[ImageArray]]) -> Any:
        decoded = []
        for number, image in enumerate(images):
            prefix = f"image {number} of {len(images)}: " if len(images) > 1 else ""
            try:
                decoded.append(image.result())
            except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
                if self._decoder.is_refusal(error):
                    return _error_response(f"{prefix}{error}", pb_utils.TritonError.INVALID_ARG)
                return _error_response(f"{prefix}{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        try:
            return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.stack(decoded))])
        except Exception as error:  # noqa: BLE001 - such as too little memory for the batch
            return _error_response(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def _error_response(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _import_from(folder: Path, name: str) -> Any:
    """Import a module of the version folder. Raises ImportError where a package that it needs is missing."""
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(_PACKAGE, package)
    return importlib.import_module(f"{_PACKAGE}.{name}")
