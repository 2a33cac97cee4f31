"""Runners of a model, one for each runtime. `open_artifact` picks one by file suffix and imports only its libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tritonkit.errors import ArtifactError, InputError
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs

__all__ = ["Outputs", "Runner", "open_artifact"]


def _open_pytorch(path: Path, threads: int) -> Runner:
    from tritonkit.runtimes.pytorch import TorchRunner

    return TorchRunner.from_checkpoint(path, threads=threads)


def _open_onnxruntime(path: Path, threads: int) -> Runner:
    from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, threads=threads)


def _open_openvino(path: Path, threads: int) -> Runner:
    from tritonkit.runtimes.openvino import OpenVinoRunner

    return OpenVinoRunner(path, threads=threads)


def _open_torchscript(path: Path, threads: int) -> Runner:
    from tritonkit.runtimes.torchscript import TorchScriptRunner

    return TorchScriptRunner(path, threads=threads)


def _open_tensorrt(path: Path, threads: int) -> Runner:
    from tritonkit.runtimes.tensorrt import TensorRtRunner

    return TensorRtRunner(path)


OPENERS: dict[str, Callable[[Path, int], Runner]] = {
    ".safetensors": _open_pytorch,
    ".onnx": _open_onnxruntime,
    ".xml": _open_openvino,
    ".pt": _open_torchscript,
    ".plan": _open_tensorrt,
    ".rtx": _open_tensorrt,
}
_EXTRA_BY_LIBRARY = {"openvino": "openvino"}
"""Extra of tritonkit that installs a library, by library; `builder` for all others."""


def open_artifact(path: Path, threads: int = 0) -> Runner:
    """Open a checkpoint or exported file as a runner. threads: number of threads; 0 lets the library choose.

    Raises InputError for a missing file, ArtifactError for a wrong suffix or missing library, and the runner's errors.
    """
    opener = OPENERS.get(path.suffix)
    if path.is_dir() and (best := path / "best.safetensors").is_file():
        raise InputError(
            f"{path}: is the folder of a training run; pass its checkpoint, {best}", code="artifact.run_folder"
        )
    if opener is None:
        raise ArtifactError(
            f"{path}: cannot run a file with the suffix {path.suffix!r}; known suffixes: {', '.join(OPENERS)}",
            code="artifact.unknown_suffix",
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file", code="artifact.not_found")
    try:
        return opener(path, threads)
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"{path}: running a {path.suffix} file needs {error.name}; install it with: "
            f"pip install 'tritonkit[{_EXTRA_BY_LIBRARY.get(error.name or '', 'builder')}]'",
            code="artifact.missing_library",
        ) from error
