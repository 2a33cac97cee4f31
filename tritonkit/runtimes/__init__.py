"""Runners of a model, one for each runtime. `open_artifact` picks one by file suffix and imports only its libraries."""

from __future__ import annotations

from pathlib import Path

from tritonkit.errors import ArtifactError, InputError
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import format_of, known_formats
from tritonkit.spec import Outputs

__all__ = ["Outputs", "Runner", "open_artifact"]

_CHECKPOINT = ".safetensors"


def open_artifact(path: Path, threads: int = 0) -> Runner:
    """Open a checkpoint or exported file as a runner. threads: number of threads; 0 lets the library choose.

    Raises InputError for a missing file, ArtifactError for a wrong suffix or missing library, and the runner's errors.
    """
    artifact_format = format_of(path)
    if path.is_dir() and (best := path / "best.safetensors").is_file():
        raise InputError(
            f"{path}: is the folder of a training run; pass its checkpoint, {best}", code="artifact.run_folder"
        )
    if not path.exists():
        raise InputError(f"{path}: no such file", code="artifact.not_found")
    if artifact_format is None and path.suffix != _CHECKPOINT:
        known = ", ".join([_CHECKPOINT, *(known.suffix for known in known_formats())])
        raise ArtifactError(
            f"{path}: cannot run a file with the suffix {path.suffix!r}; known suffixes: {known}",
            code="artifact.unknown_suffix",
        )
    if not path.is_file():
        raise InputError(f"{path}: is a folder; expected a file", code="artifact.folder")
    try:
        if artifact_format is None:
            from tritonkit.runtimes.pytorch import TorchRunner

            return TorchRunner.from_checkpoint(path, threads=threads)
        return artifact_format.open(path, threads)
    except ModuleNotFoundError as error:
        extra = artifact_format.extra if artifact_format and artifact_format.library == error.name else "builder"
        raise ArtifactError(
            f"{path}: running a {path.suffix} file needs {error.name}; install it with: "
            f"pip install 'tritonkit[{extra}]'",
            code="artifact.missing_library",
        ) from error
