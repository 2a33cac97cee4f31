"""Ways to run a model. `open_artifact` picks one by the file's suffix, and loads only that one's libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.errors import ArtifactError, InputError
from model.runners.base import Outputs, Runner

__all__ = ["Outputs", "Runner", "open_artifact"]


def _torch(path: Path, threads: int) -> Runner:
    from model.runners.pytorch import TorchRunner

    return TorchRunner.from_checkpoint(path, threads=threads)


def _onnxruntime(path: Path, threads: int) -> Runner:
    from model.runners.onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, threads=threads)


def _openvino(path: Path, threads: int) -> Runner:
    from model.runners.openvino import OpenVinoRunner

    return OpenVinoRunner(path, threads=threads)


def _torchscript(path: Path, threads: int) -> Runner:
    from model.runners.torchscript import TorchScriptRunner

    return TorchScriptRunner(path, threads=threads)


def _tensorrt(path: Path, threads: int) -> Runner:
    from model.runners.tensorrt import TensorRtRunner

    return TensorRtRunner(path)


OPENERS: dict[str, Callable[[Path, int], Runner]] = {
    ".safetensors": _torch,
    ".onnx": _onnxruntime,
    ".xml": _openvino,
    ".pt": _torchscript,
    ".plan": _tensorrt,
    ".rtx": _tensorrt,
}
_EXTRA_BY_LIBRARY = {"openvino": "openvino"}
"""By library, the extra that brings it, where that is not `builder`."""


def open_artifact(path: Path, threads: int = 0) -> Runner:
    """Open a checkpoint or an exported file; `threads` 0 leaves their number to the library.

    Raises ArtifactError for an unknown suffix or a missing library, and what the runner itself raises.
    """
    opener = OPENERS.get(path.suffix)
    if path.is_dir() and (best := path / "best.safetensors").is_file():
        raise InputError(f"{path}: is a run; name its checkpoint, {best}")
    if opener is None:
        raise ArtifactError(f"{path}: cannot run a {path.suffix or 'suffixless'} file; known: {', '.join(OPENERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return opener(path, threads)
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"{path}: running a {path.suffix} file needs {error.name}; install it with: "
            f"pip install 'tritonkit[{_EXTRA_BY_LIBRARY.get(error.name or '', 'builder')}]'"
        ) from error
