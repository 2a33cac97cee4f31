"""Triton model of the Python backend: encoded pictures in, what the model beside it takes out.

`builder export` copies this file into the version folder of `NAME_decode`, beside `preprocess.py`, the files that it
imports, and `pixel_budget.py`, the very files that the kit decodes with, and `preprocess.json`, the model's
`Preprocess`. It runs inside Triton's Python stub with numpy and Pillow.
How such models work: github.com/triton-inference-server/python_backend, README.md.
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
    from model.preprocess import ImageArray

_PACKAGE = "tritonkit_decoder"
"""What the files beside this one are imported from: folders on Triton's path could hold another `preprocess`."""


class TritonPythonModel:
    """The one instance: Pillow lets go of Python's lock while it decodes, so threads keep all cores busy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read how pictures are fitted. Without Pillow the model loads all the same, and each request is told why.

        A model that does not load would keep Triton from starting, and with it the models that need no Pillow.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        given = {name: one["string_value"] for name, one in config.get("parameters", {}).items()}
        threads = int(given.get("decoders") or len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._missing = ""
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            self._preprocess = _import_from(folder, "preprocess")
        except ImportError as error:
            self._missing = (
                f"{args['model_name']}: Triton's Python has no Pillow ({error}); install it there, or ask the model "
                "itself with uint8 pixels"
            )
            pb_utils.Logger.log_error(self._missing)
            return
        how = json.loads((folder / "preprocess.json").read_bytes())
        self._how = self._preprocess.Preprocess(**{**how, "fill": tuple(how["fill"])})
        budget, most = _import_from(folder, "pixel_budget").PixelBudget, self._preprocess.MAX_PIXELS
        pixels = given.get("decoded_pixels")
        self._room = budget(int(pixels)) if pixels else budget.for_threads(threads, at_least=most)
        self._most = min(most, self._room.pixels)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests Triton batched. All their pictures are decoded together, and each fails by itself."""
        if self._missing:
            return [_error_response(self._missing, pb_utils.TritonError.UNAVAILABLE) for _ in requests]
        pending = [self._submit(request) for request in requests]
        return [self._response(one) if isinstance(one, list) else one for one in pending]

    def finalize(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, request: Any) -> Any:
        """The futures of a request's pictures, [N, 1], or the response where they cannot be had."""
        try:
            pictures = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().ravel()
            return [self._pool.submit(self._decode, data) for data in pictures]
        except Exception as error:  # noqa: BLE001 - it fails by itself, not with what Triton batched it with
            return _error_response(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _decode(self, data: bytes) -> ImageArray:
        pixels: ImageArray = self._preprocess.load_image(data, self._how, self._room, self._most)[0]
        return pixels

    def _response(self, pictures: list[Future[ImageArray]]) -> Any:
        decoded = []
        for number, picture in enumerate(pictures):
            where = f"picture {number} of {len(pictures)}: " if len(pictures) > 1 else ""
            try:
                decoded.append(picture.result())
            except self._preprocess.ImageError as error:
                return _error_response(f"{where}{error}", pb_utils.TritonError.INVALID_ARG)
            except Exception as error:  # noqa: BLE001 - whatever fails, Triton needs a response for each request
                return _error_response(f"{where}{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        try:
            return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.stack(decoded))])
        except Exception as error:  # noqa: BLE001 - such as no memory for them together
            return _error_response(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def _error_response(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _import_from(folder: Path, name: str) -> Any:
    """A module of the version folder, whose modules import each other. Raises ImportError where one needs another."""
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(_PACKAGE, package)
    return importlib.import_module(f"{_PACKAGE}.{name}")
