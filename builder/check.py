"""Lint a model repository offline: what Triton would refuse, and what it would serve although it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder.manifest import MANIFEST_FILE, Manifest
from builder.onnx_export import onnx_interface
from builder.publish import leftovers, versions_of
from builder.triton_config import ARTIFACTS, ModelConfig, label_texts, public_json, read_config, tensors_of
from builder.verdict import Verdict
from model.errors import InputError, TritonkitError
from model.files import sha256_of
from model.spec import METADATA_KEY, Frozen, ModelSpec

VERDICT_FILE = "verdict.json"


class Finding(Frozen):
    """One thing wrong: an error makes a model fail or answer wrongly, a warning does not."""

    severity: Literal["error", "warning"]
    path: str
    problem: str
    fix: str


def check_repository(repository: Path) -> list[Finding]:
    """All findings of a repository. Raises InputError when there is no such folder."""
    if not repository.is_dir():
        raise InputError(f"{repository}: no such model repository; make one with `builder export`")
    findings = [_warning(path, "left by an interrupted export", "delete it") for path in leftovers(repository)]
    models = sorted(path for path in repository.iterdir() if path.is_dir())
    if not models:
        findings.append(_warning(repository, "holds no model", "publish one with `builder export`"))
    for model in models:
        findings.extend(_check_model(model))
    return findings


def _check_model(model: Path) -> Iterator[Finding]:
    if model.name.startswith("."):
        yield _error(model, "Triton takes a hidden folder for a model too", "move it out of the repository")
        return
    try:
        config = read_config(model)
    except TritonkitError as error:
        yield _error(model, str(error), "export the model again")
        return
    if config.name not in ("", model.name):
        yield _error(model, f"its configuration is named {config.name!r}", "name the folder so, or remove `name`")
    if config.HasField("ensemble_scheduling"):
        yield from _check_ensemble(model, config)
        return
    yield from _check_folders(model)
    yield from _check_spec(model, config)
    for version in versions_of(model):
        yield from _check_version(model / str(version), config)


def _check_folders(model: Path) -> Iterator[Finding]:
    versions = versions_of(model)
    if not versions:
        yield _error(model, "has no version folder", "export the model again, or delete the folder")
    for folder in sorted(path for path in model.iterdir() if path.is_dir()):
        if folder.name not in map(str, versions):
            yield _warning(folder, "Triton ignores it: a version is a number without leading zeros", "delete it")


def _check_ensemble(model: Path, config: ModelConfig) -> Iterator[Finding]:
    for step in config.ensemble_scheduling.step:
        if not (model.parent / step.model_name).is_dir():
            yield _error(model, f"a step calls {step.model_name!r}, which is not here", "export that model")


def _check_spec(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """model.json, the parameter clients read, and the files of labels must say the same."""
    path = model / METADATA_KEY
    if not path.is_file():
        yield _warning(path, "missing: not published by `builder`", "export the model with `builder export`")
        return
    try:
        spec = ModelSpec.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    except (TritonkitError, UnicodeDecodeError) as error:
        yield _error(path, str(error), "export the model again")
        return
    if config.parameters[METADATA_KEY].string_value != public_json(spec):
        yield _error(path, "clients are told another spec in config.pbtxt", "export the model again")
    for name, text in label_texts(spec).items():
        if _content(model / name) != text.encode():
            count = text.count("\n")
            yield _error(model / name, f"is not the {count} labels of the model", "export it again")
    wanted = ((spec.input,), spec.outputs)
    if (tensors_of(config.input), tensors_of(config.output)) != wanted:
        yield _error(model, "inputs or outputs in config.pbtxt are not those of the spec", "export the model again")


def _check_version(folder: Path, config: ModelConfig) -> Iterator[Finding]:
    artifact = folder / (config.default_model_filename or ARTIFACTS.get(config.backend, ""))
    if config.backend in ARTIFACTS and not artifact.is_file():
        yield _error(folder, f"has no {artifact.name}, which backend {config.backend} loads", "export it again")
        return
    yield from _check_manifest(folder)
    yield from _check_verdict(folder)
    if artifact.suffix == ".onnx" and folder.name == str(versions_of(folder.parent)[-1]):
        yield from _check_interface(artifact, config)


def _check_interface(artifact: Path, config: ModelConfig) -> Iterator[Finding]:
    try:
        inputs, outputs = onnx_interface(artifact)
    except TritonkitError as error:
        yield _error(artifact, str(error), "export the model again")
        return
    said = (tensors_of(config.input), tensors_of(config.output))
    if said != (inputs, outputs):
        told, has = ("; ".join(", ".join(map(str, side)) for side in pair) for pair in (said, (inputs, outputs)))
        yield _error(artifact, f"config.pbtxt says {told}; the graph has {has}", "export the model again")


def _check_manifest(folder: Path) -> Iterator[Finding]:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        yield _warning(folder, f"has no {MANIFEST_FILE}: its files cannot be verified", "export it with `builder`")
        return
    except (OSError, ValidationError) as error:
        yield _error(folder / MANIFEST_FILE, f"cannot be read ({error})", "export the model again")
        return
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield _error(path, "is in the manifest but missing", "export the model again")
        elif path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            yield _error(path, "was changed since it was published (its hash differs)", "export the model again")


def _check_verdict(folder: Path) -> Iterator[Finding]:
    try:
        verdict = Verdict.model_validate_json((folder / VERDICT_FILE).read_bytes())
    except FileNotFoundError:
        yield _warning(folder, "has no verdict: nobody compared it with its checkpoint", "export it with `builder`")
    except (OSError, ValidationError) as error:
        yield _error(folder / VERDICT_FILE, f"cannot be read ({error})", "export the model again")
    else:
        if verdict.forced:
            yield _warning(folder, f"published with --force:\n{verdict.summary()}", "export it again without --force")
        elif not verdict.passed:
            yield _error(folder, f"its verdict failed:\n{verdict.summary()}", "export the model again")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _error(path: Path, problem: str, fix: str) -> Finding:
    return Finding(severity="error", path=str(path), problem=problem, fix=fix)


def _warning(path: Path, problem: str, fix: str) -> Finding:
    return Finding(severity="warning", path=str(path), problem=problem, fix=fix)
