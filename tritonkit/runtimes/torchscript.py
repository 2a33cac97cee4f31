"""Run a TorchScript file in this process. The spec is an extra file in the archive."""

from __future__ import annotations

from pathlib import Path

import torch

from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.torchscript_archive import embedded_spec, load_torchscript, torch_reason
from tritonkit.spec import ModelSpec, Outputs


class TorchScriptRunner(Runner):
    """Runs a TorchScript module on the CPU, or on the GPU if torch finds one."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open a TorchScript file; without `spec`, read the spec from the archive.

        Raises ArtifactError if the file is no TorchScript archive or has no spec, InputError if its code may do more
        than compute.
        """
        self.origin = str(path)
        if threads:
            torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Without TF32, like the checkpoint.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._module = load_torchscript(path, self._device)
        self.spec = spec or self._parse_spec(embedded_spec(path))

    def _parse_spec(self, text: str | None) -> ModelSpec:
        if text is None:
            raise ArtifactError(
                f"{self.origin}: contains no model spec; export the model with `builder export`",
                code="artifact.no_spec",
            )
        return ModelSpec.from_json(text, origin=self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        try:
            with torch.inference_mode():
                answers = self._module(torch.from_numpy(batch).to(self._device))
        except RuntimeError as error:
            raise ArtifactError(
                f"{self.origin}: inference failed on a batch of {len(batch)}: {torch_reason(error)}",
                code="artifact.run_failed",
            ) from error
        if isinstance(answers, torch.Tensor):
            answers = (answers,)
        names = [output.name for output in self.spec.outputs]
        if not isinstance(answers, tuple | list) or len(answers) != len(names):
            raise ArtifactError(
                f"{self.origin}: does not return the {len(names)} tensors of its spec ({', '.join(names)})",
                code="artifact.tensor_mismatch",
            )
        return {name: answer.cpu().numpy() for name, answer in zip(names, answers, strict=True)}
