"""What our Triton backends share: requests that Triton batched are answered in one run.

Copied beside the `model.py` of each backend, where Triton's Python stub imports it. Needs numpy and nothing of ours.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class BatchingModel(ABC):
    """One instance of a model, opened by a library."""

    library: str
    """For the client's errors."""
    default_filename: str

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact. An exception here is shown by Triton as the reason why the model is not ready."""
        self.config: dict[str, Any] = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.path = folder / (self.config.get("default_model_filename") or self.default_filename)
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
