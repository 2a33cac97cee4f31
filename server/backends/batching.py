"""Base class of tritonkit's Triton backends: runs all requests of a batch in one call.

It is copied next to the `model.py` of each backend, where Triton's Python stub imports it. It needs only numpy.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from server.backends.loaded import Announcement
    from server.backends.rows import Job, RowPool
else:  # in Triton's backend folder it is next to this file
    from loaded import Announcement
    from rows import RowPool

DEFAULT_MAX_BATCH = 4
"""Triton's `default-max-batch-size`: for a model that supports batches and whose configuration has no limit."""


class TensorInfo(NamedTuple):
    """An input or output of an artifact."""

    name: str
    data_type: str
    """Triton's data type, such as TYPE_FP32."""
    shape: tuple[int, ...]
    """Includes the batch axis; -1 is a dynamic size."""


Interface = tuple[list[TensorInfo], list[TensorInfo]]
"""Inputs and outputs."""


class BatchingModel(ABC):
    """One instance of a model. A subclass opens and runs it with one library."""

    library: str
    """The name in error messages."""
    file = ""
    """The artifact's name where config.pbtxt has none. Triton completes it for the backends that it knows."""

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Complete inputs, outputs, max_batch_size and batching if the configuration lacks inputs or outputs.

        The rules are those of NVIDIA's backends: onnxruntime_backend, src/onnxruntime.cc, `AutoCompleteConfig`.
        """
        settings = config.as_dict()
        if settings["input"] and settings["output"]:
            return config
        # This method gets no path, but the stub's first argument is the path of the artifact.
        path = _resolve_file(Path(os.fsdecode(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1])))
        inputs, outputs = cls.interface(path)
        batches = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
        if settings["max_batch_size"] and not batches:
            raise pb_utils.TritonModelException(
                f"{path}: config.pbtxt has max_batch_size {settings['max_batch_size']}, but not every input and output "
                "of the model has a dynamic first axis; set max_batch_size: 0"
            )
        if batches:
            config.set_max_batch_size(settings["max_batch_size"] or DEFAULT_MAX_BATCH)
            if "sequence_batching" not in settings:
                config.set_dynamic_batching()
        settings["input"] = [_config_entry(tensor, batches) for tensor in inputs]
        settings["output"] = [_config_entry(tensor, batches) for tensor in outputs]
        return config

    @classmethod
    def interface(cls, path: Path) -> Interface:
        """Return inputs and outputs of an artifact. Raises TritonModelException if the artifact has no such record."""
        raise pb_utils.TritonModelException(
            f"{path}: {cls.library} files do not record inputs and outputs; add them to config.pbtxt"
        )

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact. Triton shows an exception from here as the reason why the model is not ready."""
        self.read_config(json.loads(args["model_config"]), args)
        self.open(args)
        self._rows = RowPool(self.threads)
        self._announcement = Announcement(Path(sys.modules[type(self).__module__].__file__ or "").parent, args)

    def read_config(self, config: dict[str, Any], args: dict[str, str]) -> None:
        """Read the model configuration. Raises TritonModelException where the artifact is missing."""
        self.config = config
        folder = Path(args["model_repository"]) / args["model_version"]
        self.path = _resolve_file(folder / (self.config["default_model_filename"] or self.file))
        self.inputs = [entry["name"] for entry in self.config["input"]]
        self.outputs = [entry["name"] for entry in self.config["output"]]
        # Triton starts two CPU instances by default; they share the cores, else they would slow each other down.
        self.instances = max(1, sum(int(group.get("count", 1)) for group in self.config.get("instance_group", [])))
        self.cores = max(1, len(os.sched_getaffinity(0)) // self.instances)
        self.threads = self.cores
        if not self.path.is_file():
            raise pb_utils.TritonModelException(f"{self.path}: no such file")

    def finalize(self) -> None:
        """Tell the other backends that this version is gone, and stop the threads."""
        self._announcement.withdraw()
        self._rows.close()

    @abstractmethod
    def open(self, args: dict[str, str]) -> None:
        """Open `self.path`. args: Triton's arguments of `initialize`."""

    @abstractmethod
    def run(self, arrays: list[Any]) -> list[Any]:
        """Run one batch. arrays: in the order of `self.inputs`. Returns arrays in the order of `self.outputs`."""

    runs_rows = False
    """Whether each row runs by itself, on one thread: `run_row` instead of `run`."""

    def run_row(self, arrays: list[Any], alone: bool) -> list[Any]:
        """Run one row, where `runs_rows`; several threads may call it at the same time.

        alone: whether no other row runs, so that this one may use all threads.
        """
        raise NotImplementedError

    def parameter(self, name: str) -> str:
        """Return a parameter of `config.pbtxt`; empty if missing."""
        return str(self.config.get("parameters", {}).get(name, {}).get("string_value", ""))

    def check_names(self, kind: str, configured: Sequence[str], actual: Sequence[str]) -> None:
        """Check that the artifact has the configured tensors. Raises TritonModelException."""
        if not set(configured) <= set(actual):
            raise pb_utils.TritonModelException(
                f"{self.path}: config.pbtxt has the {kind} {list(configured)}, the graph has {list(actual)}"
            )

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Run the requests of a batch in one call, and if that fails, one by one; or each row by itself."""
        if self.runs_rows:
            for request in requests:
                self._rows.submit(request, self._row_jobs(request), self._row_response)
            return None
        try:
            return self._run_batch(requests)
        except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
            if len(requests) == 1:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.library}: {error}"))]
        return [response for request in requests for response in self.execute([request]) or ()]

    def _row_jobs(self, request: Any) -> list[Job]:
        arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]
        rows = [[array[row : row + 1] for array in arrays] for row in range(len(arrays[0]))]
        return [partial(self.run_row, row) for row in rows]

    def _row_response(self, results: list[Any]) -> Any:
        for error in results:
            if isinstance(error, Exception):
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.library}: {error}"))
        return self._response([np.concatenate(parts) for parts in zip(*results, strict=True)])

    def _run_batch(self, requests: list[Any]) -> list[Any]:
        batches = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]
            for request in requests
        ]
        if len(batches) == 1:
            return [self._response(self.run(batches[0]))]  # outputs of any shape
        outputs = self.run([np.concatenate(parts) for parts in zip(*batches, strict=True)])
        responses, start = [], 0
        for batch in batches:
            stop = start + len(batch[0])
            responses.append(self._response([array[start:stop] for array in outputs]))
            start = stop
        return responses

    def _response(self, arrays: list[Any]) -> Any:
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _resolve_file(path: Path) -> Path:
    """Return the file to open: as in NVIDIA's onnxruntime backend, `model.onnx` may be a folder with this file."""
    return path / path.name if path.is_dir() else path


def _config_entry(tensor: TensorInfo, batches: bool) -> dict[str, Any]:
    """Return the configuration entry of a tensor; Triton's configuration does not allow empty dims."""
    dims = list(tensor.shape[1:] if batches else tensor.shape)
    entry = {"name": tensor.name, "data_type": tensor.data_type, "dims": dims or [1]}
    return entry if dims else {**entry, "reshape": {"shape": []}}
