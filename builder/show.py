"""`builder show`: what a checkpoint, an artifact or a published model says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import JsonValue

from builder.check import VERDICT_FILE
from builder.manifest import MANIFEST_FILE
from builder.onnx_export import onnx_interface, onnx_precision, spec_in_onnx
from builder.publish import versions_of
from model.checkpoint import read_spec
from model.errors import ArtifactError, InputError
from model.spec import METADATA_KEY, Frozen, ModelSpec


class Shown(Frozen):
    """All that is known of one path; absent parts are None."""

    path: Path
    spec: ModelSpec | None = None
    interface: tuple[str, ...] = ()
    precision: str | None = None
    versions: tuple[int, ...] = ()
    verdict: JsonValue = None
    manifest: JsonValue = None


def show(path: Path) -> Shown:
    """Read a checkpoint, an ONNX file, a version folder or a model folder. Raises InputError for anything else."""
    if path.suffix == ".safetensors":
        return Shown(path=path, spec=read_spec(path))
    if path.suffix == ".onnx":
        return _shown_onnx(path)
    if (path / METADATA_KEY).is_file():
        versions = versions_of(path)
        newest = path / str(versions[-1]) if versions else path
        return _shown_version(newest, tuple(versions))
    if path.is_dir() and path.name.isdecimal():
        return _shown_version(path, ())
    raise InputError(f"{path}: expected a .safetensors or .onnx file, or the folder of a published model or version")


def _shown_onnx(path: Path) -> Shown:
    inputs, outputs = onnx_interface(path)
    around = _shown_version(path.parent, ())
    return around.model_copy(
        update={
            "path": path,
            "spec": spec_in_onnx(path) or around.spec,
            "interface": tuple(map(str, (*inputs, *outputs))),
            "precision": onnx_precision(path),
        }
    )


def _shown_version(folder: Path, versions: tuple[int, ...]) -> Shown:
    return Shown(
        path=folder,
        spec=_spec_of_version(folder),
        versions=versions,
        verdict=_json(folder / VERDICT_FILE),
        manifest=_json(folder / MANIFEST_FILE),
    )


def _spec_of_version(folder: Path) -> ModelSpec | None:
    """Its own graph's, else the newest version's, which all share beside them."""
    graph, shared = folder / "model.onnx", folder.parent / METADATA_KEY
    if graph.is_file() and (spec := spec_in_onnx(graph)) is not None:
        return spec
    return ModelSpec.from_json(shared.read_text(encoding="utf-8"), origin=str(shared)) if shared.is_file() else None


def _json(path: Path) -> JsonValue:
    try:
        document: JsonValue = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error})") from error
    return document
