"""Triton backend that decodes images and runs the model in one process: `NAME_encoded` without its ensemble.

An ensemble hands each image to two processes, which costs a lone request a tenth of its time on a CPU, and lets the
threads of both compete. This backend opens the version of `NAME` that Triton has loaded, by the backend of `NAME`, and
decodes with the files of `NAME_decode` and the preprocessing in the configuration of that version.

`builder export` writes `configs/one_process.pbtxt` beside the ensemble's configuration. Triton takes it when it is
started with `--model-config-name=one_process`; NVIDIA's image serves the ensemble.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.backends.batching import BatchingModel
    from server.backends.loaded import LoadedVersion, NewestVersion
    from server.backends.rows import RowPool
else:  # in Triton's backend folder they are next to this file
    from loaded import NewestVersion
    from rows import RowPool

_PACKAGE = "tritonkit_decoder"


class TritonPythonModel:
    """Answers requests for encoded images of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration; open the model if Triton has loaded it already."""
        self._outputs = [output["name"] for output in json.loads(args["model_config"])["output"]]
        self._owner = args["model_name"].removesuffix("_encoded")
        self._decode_model = Path(args["model_repository"]).parent / f"{self._owner}_decode"
        self._newest = NewestVersion(self._owner)
        self._version: _Version | None = None
        with suppress(Exception):  # each request gets the reason: a model that does not load could stop Triton
            self._loaded_version()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Answer a batch of requests; one that fails does not stop others. None: the threads answer."""
        try:
            version = self._loaded_version()
        except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
            response = _error_response(str(error), pb_utils.TritonError.UNAVAILABLE)
            return [response for _ in requests]
        images = [pb_utils.get_input_tensor_by_name(request, "encoded").as_numpy().ravel() for request in requests]
        if not version.model.runs_rows:
            return version.answer_batch(images)
        for request, files in zip(requests, images, strict=True):
            version.rows.submit(request, [partial(version.answer, data) for data in files], version.response)
        return None

    def finalize(self) -> None:
        """Stop the threads."""
        if self._version is not None:
            self._version.close()

    def _loaded_version(self) -> _Version:
        """The version of the model that an ensemble would call. Raises RuntimeError where none is loaded."""
        loaded = self._newest.read()
        if loaded is None:
            raise RuntimeError(f"{self._owner} is not loaded, so its encoded images cannot be answered")
        if self._version is None or self._version.loaded is not loaded:
            version = _Version(loaded, self._decode_model, self._outputs)
            if self._version is not None:
                self._version.close()
            self._version = version
        return self._version


class _Version:
    """A version of the model, opened together with the decoder for its preprocessing."""

    def __init__(self, loaded: LoadedVersion, decode_model: Path, outputs: list[str]) -> None:
        self.loaded, config = loaded, json.loads(loaded.args["model_config"])
        spec = json.loads(config["parameters"]["model.json"]["string_value"])
        try:
            decoding = _import_from(decode_model / "1", "decoder")
        except ImportError as error:
            raise RuntimeError(
                f"{decode_model.name}: Triton's Python has no Pillow ({error}); install it there, or send uint8 "
                "pixels to the model itself"
            ) from error
        text = (decode_model / "config.pbtxt").read_text(encoding="utf-8")
        decoders = int(_parameter(text, "decoders") or len(os.sched_getaffinity(0)))
        self._decoder = decoding.Decoder(spec["preprocess"], decoders, _parameter(text, "decoded_pixels"))
        self.model = _open_model(loaded, config)
        self._outputs, self._order = outputs, [self.model.outputs.index(name) for name in outputs]
        self._pool, self.rows = ThreadPoolExecutor(decoders, "decode"), RowPool(min(decoders, self.model.threads))

    def close(self) -> None:
        """Wait for the responses, and stop the threads."""
        self.rows.close()
        self._pool.shutdown(cancel_futures=True)

    def answer(self, data: bytes, alone: bool) -> list[Any]:
        """Return the outputs for one image, each with a batch axis."""
        return self.model.run_row([self._decoder.decode(data)[None]], alone)

    def answer_batch(self, images: list[Any]) -> list[Any]:
        """Decode on all cores, then run the model once. images: the files of each request. Returns the responses."""
        files = np.concatenate(images)
        decoded = [self._decode(files[0])] if len(files) == 1 else list(self._pool.map(self._decode, files))
        good = [pixels for pixels in decoded if not isinstance(pixels, Exception)]
        outputs: Iterator[Any] = iter(())
        try:
            if good:
                outputs = iter(
                    [[row[None] for row in rows] for rows in zip(*self.model.run([np.stack(good)]), strict=True)]
                )
        except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
            outputs = iter([error] * len(good))
        answers = iter([pixels if isinstance(pixels, Exception) else next(outputs) for pixels in decoded])
        return [self.response([next(answers) for _ in request]) for request in images]

    def _decode(self, data: bytes) -> Any:
        try:
            return self._decoder.decode(data)
        except Exception as error:  # noqa: BLE001 - only this request may fail
            return error

    def response(self, answers: list[Any]) -> Any:
        """The response of one request with one or more images."""
        for number, answer in enumerate(answers):
            if isinstance(answer, Exception):
                prefix = f"image {number} of {len(answers)}: " if len(answers) > 1 else ""
                if self._decoder.is_refusal(answer):
                    return _error_response(f"{prefix}{answer}", pb_utils.TritonError.INVALID_ARG)
                return _error_response(f"{prefix}{type(answer).__name__}: {answer}", pb_utils.TritonError.INTERNAL)
        arrays = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*answers, strict=True)]
        tensors = [pb_utils.Tensor(name, arrays[at]) for name, at in zip(self._outputs, self._order, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _parameter(config: str, name: str) -> str:
    """Return a parameter from the text of a `config.pbtxt`; empty if missing."""
    found = re.search(rf'key:\s*"{name}"\s*value:?\s*\{{\s*string_value:\s*"(\d+)"', config)
    return found[1] if found else ""


def _open_model(version: LoadedVersion, config: dict[str, Any]) -> BatchingModel:
    """Open a version with its own backend. All instances of the model become one, with the threads of all."""
    sys.path.insert(0, str(version.backend))
    try:
        loader = SourceFileLoader(f"{version.backend.name}_backend", str(version.backend / "model.py"))
        loaded = types.ModuleType(loader.name)
        sys.modules[loader.name] = loaded
        loader.exec_module(loaded)
    finally:
        sys.path.remove(str(version.backend))
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    for name in ("intra_op_thread_count", "INTRA_OP_THREAD_COUNT"):  # of ONNX Runtime, of TorchScript
        if threads := config["parameters"].get(name):
            threads["string_value"] = str(int(threads["string_value"]) * max(1, instances))
    config["instance_group"] = []
    model: BatchingModel = loaded.TritonPythonModel()
    model.read_config(config, version.args)
    model.open(version.args)
    return model


def _error_response(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _import_from(folder: Path, name: str) -> Any:
    """Import a module of the decoder's version folder. Raises ImportError where a package that it needs is missing."""
    for loaded in [key for key in sys.modules if key.partition(".")[0] == _PACKAGE]:
        del sys.modules[loaded]  # of an earlier version
    sys.modules[_PACKAGE] = package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    return importlib.import_module(f"{_PACKAGE}.{name}")
