"""What our Triton backends share: requests that Triton batched are answered in one run.

Copied beside the `model.py` of each backend, where Triton's Python stub imports it. Needs numpy and nothing of ours.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

DEFAULT_MAX_BATCH = 4
"""Triton's `default-max-batch-size`, for a model that takes batches and whose configuration does not say how large."""


class Tensor(NamedTuple):
    """An input or output as an artifact has it."""

    name: str
    data_type: str
    """Triton's word, such as TYPE_FP32."""
    shape: tuple[int, ...]
    """The batch axis included; -1 is a size that is not fixed."""


Interface = tuple[list[Tensor], list[Tensor]]
"""Inputs and outputs."""


class BatchingModel(ABC):
    """One instance of a model, opened by a library."""

    library: str
    """For the client's errors."""
    default_filename: str

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Fill in tensors, largest batch and batching where the configuration leaves inputs or outputs out.

        The rules are those of NVIDIA's backends: onnxruntime_backend, src/onnxruntime.cc, `AutoCompleteConfig`.
        """
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config
        path = _artifact_of_this_process()
        inputs, outputs = cls.interface(path)
        batches = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
        if known["max_batch_size"] and not batches:
            raise pb_utils.TritonModelException(
                f"{path}: config.pbtxt has max_batch_size {known['max_batch_size']}, and not every input and output of "
                "the model has a free first axis; set max_batch_size: 0"
            )
        if batches:
            config.set_max_batch_size(known["max_batch_size"] or DEFAULT_MAX_BATCH)
            if "sequence_batching" not in known:
                config.set_dynamic_batching()
        known["input"] = [_described(tensor, batches) for tensor in inputs]
        known["output"] = [_described(tensor, batches) for tensor in outputs]
        return config

    @classmethod
    def interface(cls, path: Path) -> Interface:
        """Inputs and outputs of an artifact. Raises TritonModelException where it does not tell them."""
        raise pb_utils.TritonModelException(
            f"{path}: {cls.library} does not tell inputs and outputs of such a file; name them in config.pbtxt"
        )

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact. An exception here is shown by Triton as the reason why the model is not ready."""
        self.config: dict[str, Any] = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.path = _file_of(folder / (self.config.get("default_model_filename") or self.default_filename))
        self.inputs = [entry["name"] for entry in self.config["input"]]
        self.outputs = [entry["name"] for entry in self.config["output"]]
        # Triton starts two instances on a CPU unless told otherwise; each with all cores, they would stall one another.
        self.instances = max(1, sum(int(group.get("count", 1)) for group in self.config.get("instance_group", [])))
        self.cores = max(1, len(os.sched_getaffinity(0)) // self.instances)
        if not self.path.is_file():
            raise pb_utils.TritonModelException(f"{self.path}: no such file")
        self.open(args)

    @abstractmethod
    def open(self, args: dict[str, str]) -> None:
        """Open `self.path`. args: as Triton gives them to `initialize`."""

    @abstractmethod
    def run(self, arrays: list[Any]) -> list[Any]:
        """Arrays in the order of `self.outputs`, for those of `self.inputs`; each with the batch axis first."""

    def parameter(self, name: str) -> str:
        """A parameter of `config.pbtxt`, empty where there is none."""
        return str(self.config.get("parameters", {}).get(name, {}).get("string_value", ""))

    def check_names(self, kind: str, configured: Sequence[str], found: Sequence[str]) -> None:
        """Refuse a configuration that names what the artifact has not."""
        if not set(configured) <= set(found):
            raise pb_utils.TritonModelException(
                f"{self.path}: config.pbtxt names the {kind} {list(configured)}, the graph has {list(found)}"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests Triton batched: in one run, or, where that fails, each by itself."""
        try:
            return self._answer(requests)
        except Exception as error:  # noqa: BLE001 - whatever fails, Triton needs a response for each request
            if len(requests) == 1:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.library}: {error}"))]
        return [response for request in requests for response in self.execute([request])]

    def _answer(self, requests: list[Any]) -> list[Any]:
        batches = [self._arrays(request) for request in requests]
        joined = batches[0] if len(batches) == 1 else [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return self._respond(batches, self.run(joined))

    def _arrays(self, request: Any) -> list[Any]:
        return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]

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
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _artifact_of_this_process() -> Path:
    """The artifact: Triton gives `auto_complete_config` no path, and starts the stub with it as first argument."""
    return _file_of(Path(os.fsdecode(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1])))


def _file_of(path: Path) -> Path:
    """The file to open: NVIDIA's onnxruntime backend also takes a folder `model.onnx` that holds one of that name."""
    return path / path.name if path.is_dir() else path


def _described(tensor: Tensor, batches: bool) -> dict[str, Any]:
    """A tensor in the words of Triton's model configuration, which knows no empty dims."""
    dims = list(tensor.shape[1:] if batches else tensor.shape)
    entry = {"name": tensor.name, "data_type": tensor.data_type, "dims": dims or [1]}
    return entry if dims else {**entry, "reshape": {"shape": []}}
