"""`builder show`: the spec, verdict and manifest of a checkpoint, an artifact or a published model."""

from __future__ import annotations

from pathlib import Path

from builder.artifacts import inspect_artifact
from builder.onnx.interface import spec_in_onnx
from tritonkit.checkpoint import read_spec
from tritonkit.errors import InputError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.optimization import Optimization
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ONNX, format_of, known_formats
from tritonkit.runtimes.tensorrt_plan import PlanHeader
from tritonkit.spec import Frozen, ModelSpec
from tritonkit.triton.model_config import versions_of


class ShowResult(Frozen):
    """Everything that is known about a path; None where a part is missing."""

    path: Path
    spec: ModelSpec | None = None
    interface: tuple[str, ...] = ()
    precision: str | None = None
    header: PlanHeader | None = None
    """Only for a TensorRT plan, or an engine of TensorRT for RTX."""
    build: BuildRecord | None = None
    versions: tuple[int, ...] = ()
    verdict: Verdict | None = None
    manifest: Manifest | None = None
    optimization: Optimization | None = None
    """Why `builder optimize` chose this version."""


def show(path: Path) -> ShowResult:
    """Read a checkpoint, an artifact, a version folder or a model folder. Raises InputError for anything else."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", code="artifact.not_found")
    if path.suffix == ".safetensors":
        return ShowResult(path=path, spec=read_spec(path))
    if format_of(path) is not None:
        info, version = inspect_artifact(path), _show_version(path.parent, ())
        verified = version.verdict and version.verdict.precision
        fields = {
            "path": path,
            "spec": info.spec or version.spec,
            "interface": tuple(str(tensor) for side in info.interface or () for tensor in side),
            # Only a graph says its precision itself.
            "precision": info.precision if format_of(path) is ONNX else verified or info.precision,
            "header": info.header,
            "build": BuildRecord.read(path.parent) if info.header is not None else None,
        }
        return version.model_copy(update=fields)
    if (path / ModelSpec.FILE).is_file():
        versions = versions_of(path)
        newest = path / str(versions[-1]) if versions else path
        return _show_version(newest, tuple(versions))
    if path.is_dir() and path.name.isdecimal():
        return _show_version(path, ())
    suffixes = ", ".join((".safetensors", *(known.suffix for known in known_formats())))
    raise InputError(
        f"{path}: expected a file {suffixes}, or the folder of a published model or version",
        code="artifact.unknown_format",
    )


def _show_version(folder: Path, versions: tuple[int, ...]) -> ShowResult:
    """The files of a version; its spec is in its graph, else in its folder, else in the folder of the model."""
    graph = folder / ONNX.file
    spec = spec_in_onnx(graph) if graph.is_file() else None
    return ShowResult(
        path=folder,
        spec=spec or ModelSpec.read(folder) or ModelSpec.read(folder.parent),
        versions=versions,
        verdict=Verdict.read(folder),
        manifest=Manifest.read(folder),
        optimization=Optimization.read(folder),
    )
