"""Run an OpenVINO file in process: `model.xml`, with its weights in `model.bin` beside it.

The file carries the spec and the precision it is to be run in. Precision is a setting of OpenVINO's CPU plugin, and its
default is bf16 on every CPU that has it, so it is always said. The plugin reads no precision from a file by itself:
docs.openvino.ai, "Precision Control"; 2026.4 was tried.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13
from openvino.frontend import FrontEndManager

from model.errors import ArtifactError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import METADATA_KEY, ModelSpec

PRECISION_KEY = ["runtime_options", "INFERENCE_PRECISION_HINT"]
"""Where in a file's `rt_info` its precision stands, as OpenVINO names its types: f32 or bf16."""


@cache
def core() -> openvino.Core:
    """The one entry to OpenVINO in this process, which is never let go of.

    Its CPU plugin gives the thread that loads it another stack for signals. When the last of it goes in another thread,
    the memory is freed but the first thread keeps pointing there, and dies of the next signal.
    """
    return openvino.Core()


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU.

    Its list of capabilities names what the CPU has. The kernels are oneDNN's, which ONEDNN_MAX_CPU_ISA can hold to
    less, so a small model is compiled too.
    """
    if "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    image = opset13.parameter([1, 1, 2, 2], np.float32)
    pooled = opset13.max_pool(image, [1, 1], [1, 1], [0, 0], [0, 0], [2, 2])
    weights = opset13.constant(np.ones((1, 1, 1, 1), np.float32))
    convolved = opset13.convolution(pooled.output(0), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([convolved], [image])
    try:
        compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    except RuntimeError:
        return False
    return bool(compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16")


class OpenVinoRunner(Runner):
    """An OpenVINO model on the CPU."""

    precision: str
    """What it is run in, as the plugin says: f32 where the file wants bf16 and the CPU has none."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open `path`; the spec is read from the file unless given.

        Raises ArtifactError when OpenVINO refuses the file or no spec is known.
        """
        self.origin = str(path)
        try:
            # Not by `read_model`, which tries the readers of all other formats too, and tells of each.
            reader = FrontEndManager().load_by_framework("ir")
            model = reader.convert(reader.load(str(path)))
            wanted = model.get_rt_info(PRECISION_KEY).astype(str) if model.has_rt_info(PRECISION_KEY) else "f32"
            settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": wanted}
            if threads:
                settings["INFERENCE_NUM_THREADS"] = threads
            self._compiled = core().compile_model(model, "CPU", settings)
            self.precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except RuntimeError as error:
            raise ArtifactError(f"{path}: OpenVINO cannot load it: {_reason(error)}") from error
        self.spec = spec or self._read_spec(model)
        self._outputs = [output.name for output in self.spec.outputs]
        names = [output.get_any_name() for output in self._compiled.outputs]
        if missing := set(self._outputs) - set(names):
            raise ArtifactError(f"{path}: has the outputs {names}; its spec says {', '.join(sorted(missing))} too")
        self._local = threading.local()

    def _read_spec(self, model: openvino.Model) -> ModelSpec:
        if not model.has_rt_info([METADATA_KEY]):
            raise ArtifactError(f"{self.origin}: carries no model spec, so it was not written by `builder export`")
        return ModelSpec.from_json(model.get_rt_info([METADATA_KEY]).astype(str), origin=self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()  # a request serves one thread at a time
        try:
            answers = self._local.request.infer([batch], share_inputs=True)
        except RuntimeError as error:
            raise ArtifactError(f"{self.origin}: failed on a batch of {len(batch)}: {_reason(error)}") from error
        return {name: answers[name] for name in self._outputs}


def _reason(error: RuntimeError) -> str:
    """The last of OpenVINO's lines; those above it tell of its own source files."""
    return str(error).strip().splitlines()[-1]
