"""Triton backend `pytorch`, in Python: runs `model.pt`, a TorchScript archive made for NVIDIA's own LibTorch backend.

It names inputs and outputs by the same rules as NVIDIA's backend (triton-inference-server/pytorch_backend,
src/pt/model_instance_state.cc, `GetNamingConvention`) and reads those of its parameters (README.md there) that concern
a CPU: `INTRA_OP_THREAD_COUNT`, `INTER_OP_THREAD_COUNT` and `DISABLE_OPTIMIZED_EXECUTION`.

It runs inside Triton's Python stub with numpy and torch. Torch is large, so Triton's environment need not have it:
`$TRITONKIT_TORCH_SITE` may name a site-packages folder that does, of the same Python; `server up` gives the kit's own.
How such backends work: github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from server.backends.batching import BatchingModel
else:  # it lies beside this file in Triton's backend folder
    from batching import BatchingModel

SITE_VARIABLE = "TRITONKIT_TORCH_SITE"


class TritonPythonModel(BatchingModel):
    """One instance of a model."""

    library = "pytorch"
    default_filename = "model.pt"

    def open(self, args: dict[str, str]) -> None:
        """Load the archive to the instance's device."""
        self._torch = torch = _imported_torch()
        torch.set_num_threads(int(self.parameter("INTRA_OP_THREAD_COUNT") or self.cores))
        if between := self.parameter("INTER_OP_THREAD_COUNT"):
            torch.set_num_interop_threads(int(between))
        on_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self._device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        self._optimized = self.parameter("DISABLE_OPTIMIZED_EXECUTION").lower() not in ("true", "1")
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                self._module = torch.jit.load(str(self.path), map_location=self._device).eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].partition(". ")[0]  # without torch's advice
            raise pb_utils.TritonModelException(f"{self.path}: torch cannot load it: {reason}") from error
        self._arguments = [argument.name for argument in self._module.forward.schema.arguments[1:]]
        self._places = _places(self.outputs)
        _check_inputs(self.inputs, self._arguments)

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        torch = self._torch
        tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
        if set(self.inputs) <= set(self._arguments):
            tensors = [tensors[self.inputs.index(name)] for name in self._arguments if name in self.inputs]
        with torch.inference_mode(), torch.jit.optimized_execution(self._optimized):
            answers = self._module(*tensors)
        listed = [answers] if isinstance(answers, torch.Tensor) else list(answers)
        return [listed[place].cpu().numpy() for place in self._places]


def _imported_torch() -> Any:
    """Torch, from Triton's own environment, else from the folder named for it."""
    site = os.environ.get(SITE_VARIABLE, "")
    if site and site not in sys.path:
        sys.path.append(site)  # last: what Triton's environment has goes before it
    try:
        import torch
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise pb_utils.TritonModelException(
            f"TorchScript needs torch, which Triton's environment has not ({error}). Install it there (uv pip install "
            f"--python .venv-triton/bin/python torch), or name a site-packages folder of Python {version} that has it "
            f"in ${SITE_VARIABLE}, or serve with NVIDIA's image"
        ) from error
    return torch


def _check_inputs(configured: list[str], arguments: list[str]) -> None:
    if len(configured) != len(arguments):
        raise pb_utils.TritonModelException(
            f"config.pbtxt names the inputs {configured}, forward takes {', '.join(arguments)}"
        )


def _places(outputs: list[str]) -> list[int]:
    """Where in the module's answer each output stands: by `<name>__<index>` if all are so named, else in order."""
    indices = [name.partition("__")[2] for name in outputs]
    if all("__" in name for name in outputs) and all(index.isdecimal() or not index for index in indices):
        return [int(index or 0) for index in indices]
    return list(range(len(outputs)))
