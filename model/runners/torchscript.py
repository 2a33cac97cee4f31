"""Run a TorchScript file in process. The spec stands in the archive, as an extra file."""

from __future__ import annotations

from pathlib import Path

import torch

from model.errors import ArtifactError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import ModelSpec
from model.torchscript import carried_spec, load_torchscript, torch_reason


class TorchScriptRunner(Runner):
    """A TorchScript module on the CPU, or on the GPU where torch sees one."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open `path`; the spec is read from the archive unless given.

        Raises ArtifactError for a file that is no TorchScript, or carries no spec, InputError for one that may do more
        than compute.
        """
        self.origin = str(path)
        if threads:
            torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Without TF32, as the checkpoint is run.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._module = load_torchscript(path, self._device)
        self.spec = spec or self._parse_spec(carried_spec(path))

    def _parse_spec(self, text: str | None) -> ModelSpec:
        if text is None:
            raise ArtifactError(f"{self.origin}: carries no model spec, so it was not written by `builder export`")
        return ModelSpec.from_json(text, origin=self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        try:
            with torch.inference_mode():
                answers = self._module(torch.from_numpy(batch).to(self._device))
        except RuntimeError as error:
            raise ArtifactError(f"{self.origin}: failed on a batch of {len(batch)}: {torch_reason(error)}") from error
        if isinstance(answers, torch.Tensor):
            answers = (answers,)
        names = [output.name for output in self.spec.outputs]
        if not isinstance(answers, tuple | list) or len(answers) != len(names):
            raise ArtifactError(
                f"{self.origin}: does not answer {len(names)} tensors ({', '.join(names)}) as its spec says"
            )
        return {name: answer.cpu().numpy() for name, answer in zip(names, answers, strict=True)}
