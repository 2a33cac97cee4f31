"""Triton backend `pytorch` in Python: runs `model.pt`, a TorchScript archive made for NVIDIA's LibTorch backend.

It names inputs and outputs by the same rules as NVIDIA's backend (triton-inference-server/pytorch_backend,
src/pt/model_instance_state.cc, `GetNamingConvention`) and reads the CPU parameters of its
README.md: `INTRA_OP_THREAD_COUNT`, `INTER_OP_THREAD_COUNT` and `DISABLE_OPTIMIZED_EXECUTION`.

It runs inside Triton's Python stub with numpy and torch. Torch is large, so it need not be in Triton's
environment: `$TRITONKIT_TORCH_SITE` may name a site-packages folder with torch, of the same Python version. `server up`
sets it to tritonkit's own.
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
else:  # in Triton's backend folder it is next to this file
    from batching import BatchingModel

SITE_VARIABLE = "TRITONKIT_TORCH_SITE"


class TritonPythonModel(BatchingModel):
    """One instance of a model."""

    library = "pytorch"

    def open(self, args: dict[str, str]) -> None:
        """Load the archive onto the device of the instance."""
        self._torch = torch = _import_torch()
        torch.set_num_threads(int(self.parameter("INTRA_OP_THREAD_COUNT") or self.cores))
        if interop_threads := self.parameter("INTER_OP_THREAD_COUNT"):
            torch.set_num_interop_threads(int(interop_threads))
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
        # The index of each output in the module's result: from `<name>__<index>` if all have one, else in order.
        indices = [name.partition("__")[2] for name in self.outputs]
        if all("__" in name for name in self.outputs) and all(index.isdecimal() or not index for index in indices):
            self._indices = [int(index or 0) for index in indices]
        else:
            self._indices = list(range(len(self.outputs)))
        if len(self.inputs) != len(self._arguments):
            raise pb_utils.TritonModelException(
                f"config.pbtxt has the inputs {self.inputs}, but forward takes {', '.join(self._arguments)}"
            )

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        torch = self._torch
        tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
        if set(self.inputs) <= set(self._arguments):
            tensors = [tensors[self.inputs.index(name)] for name in self._arguments if name in self.inputs]
        with torch.inference_mode(), torch.jit.optimized_execution(self._optimized):
            result = self._module(*tensors)
        outputs = [result] if isinstance(result, torch.Tensor) else list(result)
        return [outputs[index].cpu().numpy() for index in self._indices]


def _import_torch() -> Any:
    """Import torch from Triton's environment, else from `$TRITONKIT_TORCH_SITE`."""
    site = os.environ.get(SITE_VARIABLE, "")
    if site and site not in sys.path:
        sys.path.append(site)  # last: packages of Triton's environment come first
    try:
        import torch
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise pb_utils.TritonModelException(
            f"TorchScript needs torch, which Triton's environment does not have ({error}). Install it there (uv pip "
            f"install --python .venv-triton/bin/python torch), or set ${SITE_VARIABLE} to site-packages of a Python "
            f"{version} with torch, or serve with NVIDIA's image"
        ) from error
    return torch
