"""Lint a model repository offline: what Triton would refuse, and what it would serve although it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from builder.artifacts import READERS, ArtifactInfo, inspect_artifact
from builder.config.serving_config import refusals, unproven
from builder.config.triton_config import label_texts, public_json, tensors_of
from builder.config.warmup import WARMUP_FOLDER, warmup_sizes
from builder.interface import Interface, difference, interface_of
from builder.proving.verdict import VERDICT_FILE, Verdict
from builder.repository.check_ensemble import check_encoded
from builder.repository.check_foreign import check_foreign
from builder.repository.shared_files import promotable
from model.compatibility import PLANS, PlanProblem, damage, header_problems, plan_problems, stale_problems
from model.cpu import adds_int8_exactly, int8_findings
from model.encoded import belongs_to
from model.ensemble import check_ensemble
from model.errors import InputError, TritonkitError
from model.files import sha256_of
from model.finding import Finding, error, no_model, warning
from model.gpu import find_gpu
from model.manifest import MANIFEST_FILE, Manifest
from model.releases import image_for
from model.spec import METADATA_KEY, ModelSpec
from model.staging import leftovers
from model.triton_backends import ARTIFACTS, ModelConfig, backend_of, loading_of
from model.triton_config import (
    CONFIG_FILE,
    completed_config,
    is_published,
    models_in,
    other_folders_in,
    versions_loaded,
    versions_of,
)

SHARED_FOLDERS = (WARMUP_FOLDER, "initial_state", "configs")
"""Folders of a model that Triton reads and that are no versions."""

_ON_CPUS = {"onnx": "model.onnx", "openvino": "model.xml"}
"""Files of a verdict's format whose int8 a CPU computes."""


@dataclass(frozen=True)
class _Place:
    """Where a repository is to be served, as far as it is known."""

    image: str | None
    compute_capability: str | None


def check_repository(repository: Path) -> list[Finding]:
    """All findings of a repository. Raises InputError when there is no such folder."""
    if not repository.is_dir():
        raise InputError(f"{repository}: no such model repository; make one with `builder export`")
    gpu = find_gpu()
    place = _Place(None, gpu.compute_capability if gpu else None)
    unread = []
    try:
        place = _Place(image_for(repository), place.compute_capability)
    except InputError as reason:
        unread = [error(repository, str(reason), "until then no plan is compared with the image that serves it")]
    findings = unread + [warning(path, "left by an interrupted export", "delete it") for path in leftovers(repository)]
    models = models_in(repository)
    if not models:
        findings.append(warning(repository, "holds no model", "publish one with `builder export`"))
    findings += map(no_model, other_folders_in(repository))
    for model in models:
        findings.extend(_check_model(model, place))
    return findings


def _check_model(model: Path, place: _Place) -> Iterator[Finding]:
    try:
        config = completed_config(model)
    except TritonkitError as reason:
        yield error(model, str(reason), "correct it, or export the model again")
        return
    if config.name not in ("", model.name):
        yield error(model, f"its configuration is named {config.name!r}", "name the folder so, or remove `name`")
    if not (config.HasField("ensemble_scheduling") or belongs_to(config) or is_published(model)):
        yield from check_foreign(model, config)
        for version in versions_of(model):
            yield from _check_plans(model / str(version), place)
        return
    for refusal in refusals(config):
        yield error(model / CONFIG_FILE, refusal.message, "correct it, or export the model again", code=refusal.code)
    if config.HasField("ensemble_scheduling") or belongs_to(config):
        yield from _check_around(model, config)
        return
    yield from _check_folders(model)
    yield from _check_serving(model, config)
    said = None
    try:
        said = (tensors_of(config.input), tensors_of(config.output))
    except TritonkitError as reason:
        yield error(model / CONFIG_FILE, str(reason), "correct it, or export the model again")
    yield from _check_spec(model, config, said)
    versions = versions_of(model)
    loaded = versions_loaded(config, versions)
    for version in versions:
        yield from _check_version(model / str(version), config, said, version in loaded)
        yield from _check_plans(model / str(version), place)


def _check_around(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """What has no artifact of its own: an ensemble, or the decoder of one."""
    if config.HasField("ensemble_scheduling"):
        yield from check_ensemble(model, config)
    if belongs_to(config):
        yield from check_encoded(model, config)
        for version in versions_of(model):
            yield from _check_manifest(model / str(version))


def _check_folders(model: Path) -> Iterator[Finding]:
    versions = versions_of(model)
    if not versions:
        yield error(model, "has no version folder", "export the model again, or delete the folder")
    for folder in sorted(path for path in model.iterdir() if path.is_dir()):
        if folder.name not in (*map(str, versions), *SHARED_FOLDERS):
            yield warning(folder, "Triton ignores it: a version is a number without leading zeros", "delete it")


def _check_serving(model: Path, config: ModelConfig) -> Iterator[Finding]:
    for doubt in unproven(config):
        yield warning(model / CONFIG_FILE, doubt, "compare its answers on the machine that serves it")
    versions = versions_of(model)
    if versions and not versions_loaded(config, versions):
        yield error(model / CONFIG_FILE, "its version policy loads none of the versions here", "export with --versions")
    for name, size in warmup_sizes(config).items():
        path = model / WARMUP_FOLDER / name
        found = path.stat().st_size if path.is_file() else -1
        if found < size:
            problem = f"has {found} bytes of the {size} warm-up reads" if found >= 0 else "missing: warm-up reads it"
            yield error(path, f"{problem}, so the model will not load", "export the model again")


def _public(text: str, path: Path) -> str | None:
    """The spec that clients read, as this version of the kit writes it; None for none."""
    try:
        return public_json(ModelSpec.from_json(text, origin=str(path)))
    except TritonkitError:
        return None


def _check_spec(model: Path, config: ModelConfig, said: Interface | None) -> Iterator[Finding]:
    """model.json, the parameter clients read, and the files of labels must say the same."""
    path = model / METADATA_KEY
    if not path.is_file():
        yield warning(path, "missing: not published by `builder`", "export the model with `builder export`")
        return
    try:
        spec = ModelSpec.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    except (TritonkitError, UnicodeDecodeError) as reason:
        yield error(path, str(reason), "export the model again")
        return
    if _public(config.parameters[METADATA_KEY].string_value, path) != public_json(spec):
        yield error(path, "clients are told another spec in config.pbtxt", "export the model again")
    for name, text in label_texts(spec).items():
        if _content(model / name) != text.encode():
            count = text.count("\n")
            yield error(model / name, f"is not the {count} labels of the model", "export it again")
    if said is not None and (other := difference(said, interface_of(spec), "its spec says")):
        yield error(model, f"{CONFIG_FILE} {other}", "export the model again")


def _check_version(folder: Path, config: ModelConfig, said: Interface | None, loaded: bool) -> Iterator[Finding]:
    loading = loading_of(config)
    wanted = loading.plans.values() or ([loading.file] if loading.backend in ARTIFACTS else [])
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        yield error(folder, f"has no {', '.join(missing)}, which backend {loading.backend} loads", "export it again")
        return
    yield from _check_manifest(folder)
    yield from _check_verdict(folder)
    for name in dict.fromkeys(wanted):
        if (folder / name).suffix in READERS:
            yield from _check_artifact(folder / name, config, said, loaded)


def _check_artifact(artifact: Path, config: ModelConfig, said: Interface | None, loaded: bool) -> Iterator[Finding]:
    try:
        told = inspect_artifact(artifact)
    except TritonkitError as reason:
        yield error(artifact, str(reason), "export the model again")
        return
    other = difference(told.interface, said, f"{CONFIG_FILE} says") if told.interface and said else None
    if other and loaded:
        yield error(artifact, f"the graph {other}", "export the model again")
    elif other and not promotable(artifact.parent, told):
        yield warning(
            artifact, f"the graph {other}, and has no such spec of its own: it cannot be promoted", "delete the version"
        )
    if _bf16_on_cpu(told, config):
        yield warning(
            artifact,
            "computes in bf16, which ONNX Runtime has no kernels for on a CPU: only a Triton with a GPU may load it",
            "export it with --accelerator tensorrt for a GPU, or with --onnx fp16",
        )


def _bf16_on_cpu(told: ArtifactInfo, config: ModelConfig) -> bool:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    compiled = any(one.name == "tensorrt" for one in accelerators)
    return told.precision == "bf16" and backend_of(config) == "onnxruntime" and not compiled


def _check_manifest(folder: Path) -> Iterator[Finding]:
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        yield warning(folder, f"has no {MANIFEST_FILE}: its files cannot be verified", "export it with `builder`")
        return
    except (OSError, ValidationError) as reason:
        yield error(folder / MANIFEST_FILE, f"cannot be read ({reason})", "export the model again")
        return
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield error(path, "is in the manifest but missing", "export the model again")
        elif path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            damaged = damage(path) if path.suffix in PLANS else None
            said = damaged or "was changed since it was published (its hash differs)"
            yield error(path, said, "export the model again")
    for one in stale_problems(manifest):
        yield _about_plan(folder, one)


def _check_plans(folder: Path, place: _Place) -> Iterator[Finding]:
    """Whether plans load where they are to be served: by the record of their build, else by their first bytes."""
    if place.image is None:
        return
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):  # which is told of
        manifest = None
    if manifest is not None and manifest.build is not None:
        for one in plan_problems(manifest, place.image, place.compute_capability):
            yield _about_plan(folder, one)
        return
    for plan in sorted(folder.glob("*.plan")):
        try:
            problems = header_problems(plan, place.image)
        except TritonkitError:  # which is told of where the artifact is read
            continue
        for one in problems:
            yield _about_plan(plan, one)


def _check_verdict(folder: Path) -> Iterator[Finding]:
    try:
        verdict = Verdict.model_validate_json((folder / VERDICT_FILE).read_bytes())
    except FileNotFoundError:
        yield warning(folder, "has no verdict: nobody compared it with its checkpoint", "export it with `builder`")
    except (OSError, ValidationError) as reason:
        yield error(folder / VERDICT_FILE, f"cannot be read ({reason})", "export the model again")
    else:
        if verdict.forced:
            yield warning(folder, f"published with --force:\n{verdict.summary()}", "export it again without --force")
        elif not verdict.passed:
            yield error(folder, f"its verdict failed:\n{verdict.summary()}", "export the model again")
        if (name := _ON_CPUS.get(verdict.format)) is not None:
            yield from int8_findings(folder / name, verdict.exact_int8, adds_int8_exactly())


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _about_plan(path: Path, told: PlanProblem) -> Finding:
    return Finding(severity=told.severity, code=told.code, path=str(path), message=told.message, fix=told.fix)
