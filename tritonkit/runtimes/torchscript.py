"""Run a TorchScript file in this process. The spec is an extra file in the archive.

A TorchScript file is a program: loading it may read and write files. So only a file that `builder export` published is
opened, known by its hash in the manifest of its version folder.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from tritonkit.errors import ArtifactError, first_line
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner, spec_of_artifact
from tritonkit.runtimes.tensorrt_plan import TRUST_VARIABLE
from tritonkit.spec import METADATA_KEY, Outputs
from tritonkit.system.files import file_sha256

_MANIFEST = "manifest.json"


class TorchScriptRunner(Runner):
    """Runs a TorchScript module on the CPU, or on the GPU if torch finds one."""

    def __init__(self, path: Path, threads: int = 0, trusted: bool = False) -> None:
        """Open a TorchScript file. trusted: this process wrote it; otherwise the manifest next to it must name it.

        Raises ArtifactError for a file that no manifest knows, or that changed since; for one that torch cannot load,
        and for one without a spec.
        """
        self.origin = str(path)
        if not trusted and os.environ.get(TRUST_VARIABLE) != "1":
            _check_published(path)
        if threads:
            torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Without TF32, like the checkpoint.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        extra: dict[str, Any] = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings(action="ignore"):
                self._module = torch.jit.load(path, self._device, _extra_files=extra).eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # torch's errors share no base class
            raise ArtifactError(
                f"{path}: not a TorchScript file that torch can load ({_reason(error)})", code="torchscript.unreadable"
            ) from error
        self.spec = spec_of_artifact(extra[METADATA_KEY], self.origin)

    def _infer(self, batch: ImageArray) -> Outputs:
        try:
            with torch.inference_mode():
                answers = self._module(torch.from_numpy(batch).to(self._device))
        except RuntimeError as error:
            raise self._failed_error(batch, _reason(error)) from error
        if isinstance(answers, torch.Tensor):
            answers = (answers,)
        names = [output.name for output in self.spec.outputs]
        if not isinstance(answers, tuple | list) or len(answers) != len(names):
            raise ArtifactError(
                f"{self.origin}: does not return the {len(names)} tensors of its spec ({', '.join(names)})",
                code="artifact.tensor_mismatch",
            )
        return {name: answer.cpu().numpy() for name, answer in zip(names, answers, strict=True)}


def _check_published(path: Path) -> None:
    """Raise ArtifactError unless the manifest next to a file names its hash."""
    try:
        recorded = json.loads(path.with_name(_MANIFEST).read_bytes())["files"][path.name]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: no {_MANIFEST} next to it names it, so it may be anybody's, and a TorchScript file is a program "
            "that would run here with all your permissions. Open it in the version folder that `builder export` "
            f"published, or set {TRUST_VARIABLE}=1 if you trust who made it",
            code="torchscript.untrusted",
        ) from error
    if file_sha256(path) != recorded:
        raise ArtifactError(
            f"{path}: has changed since it was published: its hash is not that of {_MANIFEST}; copy it again",
            code="torchscript.changed",
        )


def _reason(error: BaseException) -> str:
    """The reason of a torch error as one sentence, without torch's listing of the code and its advice."""
    lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
    text = lines[0].removeprefix("RuntimeError: ") if lines else first_line(error)
    return text.partition(". ")[0]
