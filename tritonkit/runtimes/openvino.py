"""Run an OpenVINO model in this process: `model.xml`, with its weights in `model.bin` in the same folder.

The file contains the spec and the precision to run in. Precision is a setting of OpenVINO's CPU plugin. Its default is
bf16 on every CPU that supports it, so the runner always sets it. The plugin does not read it from the file by itself
(docs.openvino.ai, "Precision Control"; tested with 2026.4).
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13
from openvino.frontend import FrontEndManager

from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner, spec_of_artifact
from tritonkit.spec import METADATA_KEY, ModelSpec, Outputs

PRECISION_KEY = ["runtime_options", "INFERENCE_PRECISION_HINT"]
"""Path of the precision in the `rt_info` of a file. Its value is an OpenVINO type: f32 or bf16."""


@cache
def get_core() -> openvino.Core:
    """Return the single OpenVINO core of this process, which is never freed.

    The CPU plugin installs an alternate signal stack in the thread that loads it. If another thread
    frees the last core, that memory is freed while the first thread still uses it, and the next signal kills the
    process.
    """
    return openvino.Core()


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU.

    OpenVINO's list of capabilities describes the CPU only. ONEDNN_MAX_CPU_ISA can restrict the oneDNN kernels further,
    so this also compiles a small model and reads the precision that it got.
    """
    if "BF16" not in get_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    image = opset13.parameter([1, 1, 2, 2], np.float32)
    pooled = opset13.max_pool(image, [1, 1], [1, 1], [0, 0], [0, 0], [2, 2])
    weights = opset13.constant(np.ones((1, 1, 1, 1), np.float32))
    convolved = opset13.convolution(pooled.output(0), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([convolved], [image])
    try:
        compiled = get_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    except RuntimeError:
        return False
    return bool(compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16")


class OpenVinoRunner(Runner):
    """Runs an OpenVINO model on the CPU."""

    precision: str
    """Precision that the plugin reports: f32 if the file asks for bf16 and the CPU does not support it."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open an OpenVINO file; without `spec`, read the spec from the file.

        Raises ArtifactError if OpenVINO rejects the file, or the file has no spec or not all of the spec's outputs.
        """
        self.origin = str(path)
        try:
            # Not `read_model`: it tries the readers of all formats and reports an error for each.
            reader = FrontEndManager().load_by_framework("ir")
            model = reader.convert(reader.load(str(path)))
            precision = model.get_rt_info(PRECISION_KEY).astype(str) if model.has_rt_info(PRECISION_KEY) else "f32"
            settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision}
            if threads:
                settings["INFERENCE_NUM_THREADS"] = threads
            self._compiled = get_core().compile_model(model, "CPU", settings)
            self.precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except RuntimeError as error:
            raise ArtifactError(
                f"{path}: OpenVINO cannot load it: {_reason(error)}", code="openvino.unreadable"
            ) from error
        text = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else ""
        self.spec = spec or spec_of_artifact(text, self.origin)
        self._outputs = [output.name for output in self.spec.outputs]
        # An output may have several names: OpenVINO merges a comparison with the cast after it, as in a mask.
        names = {name for output in self._compiled.outputs for name in output.get_names()}
        if missing := set(self._outputs) - names:
            raise ArtifactError(
                f"{path}: has the outputs {', '.join(sorted(names))}; its spec also lists {', '.join(sorted(missing))}",
                code="artifact.tensor_mismatch",
            )
        self._local = threading.local()

    def _infer(self, batch: ImageArray) -> Outputs:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()  # a request is not thread-safe
        try:
            answers = self._local.request.infer([batch], share_inputs=True)
        except RuntimeError as error:
            raise self._failed_error(batch, _reason(error)) from error
        return {name: answers[name] for name in self._outputs}


def _reason(error: RuntimeError) -> str:
    """Return the last line of an OpenVINO error; the lines above name its own source files."""
    return str(error).strip().splitlines()[-1]
