"""Lint a model repository offline: report what Triton would refuse, and what it would serve with wrong outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.artifacts import ArtifactInfo, inspect_artifact
from builder.config.serving_config import config_problems, unverified_accelerators
from builder.config.triton_config import tensors_of
from builder.config.warmup import WARMUP_FOLDER, warmup_sizes
from builder.interface import Interface, describe_difference, interface_of
from builder.repository.lint_ensemble import check_encoded
from builder.repository.lint_foreign import check_foreign
from builder.repository.shared_files import can_promote
from tritonkit.errors import InputError, TritonkitError
from tritonkit.repository.compatibility import (
    PlanProblem,
    damage_reason,
    header_problems,
    int8_findings,
    plan_problems,
    stale_problems,
)
from tritonkit.repository.ensemble import check_ensemble
from tritonkit.repository.finding import Finding, error, no_model, warning
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.staging import interrupted_exports
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ONNX, TRT, format_of, is_plan, known_formats
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.cpu import adds_int8_exactly
from tritonkit.system.files import file_sha256
from tritonkit.system.gpu import find_gpu
from tritonkit.triton.backends import ModelConfig, backend_files, backend_of, default_file
from tritonkit.triton.companions import companion_owner
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    completed_config,
    is_published,
    models_in,
    other_folders_in,
    versions_loaded,
    versions_of,
)
from tritonkit.triton.releases import image_for

SHARED_FOLDERS = (WARMUP_FOLDER, "initial_state", "configs")
"""Folders of a model that Triton reads and that are not versions."""


@dataclass(frozen=True)
class _Target:
    """The image and GPU that will serve a repository; None where unknown."""

    image: str | None
    compute_capability: str | None


def check_repository(repository: Path) -> list[Finding]:
    """Collect all findings of a repository. Raises InputError where the folder does not exist."""
    if not repository.is_dir():
        raise InputError(
            f"{repository}: no such model repository; create one with `builder export`", code="repository.missing"
        )
    gpu = find_gpu()
    target = _Target(None, gpu.compute_capability if gpu else None)
    unread = []
    try:
        target = _Target(image_for(repository), target.compute_capability)
    except InputError as reason:
        unread = [
            error(
                repository, str(reason), "correct it; no plan is compared with the image until then", code=reason.code
            )
        ]
    findings = unread + [
        warning(path, "left by an interrupted export", "delete it", code="repository.leftover")
        for path in interrupted_exports(repository)
    ]
    models = models_in(repository)
    if not models:
        findings.append(
            warning(repository, "holds no model", "publish one with `builder export`", code="repository.empty")
        )
    findings += map(no_model, other_folders_in(repository))
    for model in models:
        findings.extend(_check_model(model, target))
    return findings


def _check_model(model: Path, target: _Target) -> Iterator[Finding]:
    try:
        config = completed_config(model)
    except TritonkitError as reason:
        yield error(model, str(reason), "correct it, or export the model again", code=reason.code)
        return
    if config.name not in ("", model.name):
        yield error(
            model,
            f"its config.pbtxt has the name {config.name!r}",
            "rename the folder, or remove `name`",
            code="repository.config_name",
        )
    if not (config.HasField("ensemble_scheduling") or companion_owner(config) or is_published(model)):
        yield from check_foreign(model, config)
        for version in versions_of(model):
            yield from _check_plans(model / str(version), target)
        return
    for refusal in config_problems(config):
        yield error(model / CONFIG_FILE, refusal.message, "correct it, or export the model again", code=refusal.code)
    if config.HasField("ensemble_scheduling") or companion_owner(config):
        yield from _check_companion(model, config)
        return
    yield from _check_folders(model)
    yield from _check_serving(model, config)
    interface = None
    try:
        interface = (tensors_of(config.input), tensors_of(config.output))
    except TritonkitError as reason:
        yield error(model / CONFIG_FILE, str(reason), "correct it, or export the model again", code=reason.code)
    yield from _check_spec(model, config, interface)
    versions = versions_of(model)
    loaded = versions_loaded(config, versions)
    for version in versions:
        yield from _check_version(model / str(version), config, interface, version in loaded)
        yield from _check_plans(model / str(version), target)


def _check_companion(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Check a model without an artifact: an ensemble, or its decoder."""
    if config.HasField("ensemble_scheduling"):
        yield from check_ensemble(model, config)
    if companion_owner(config):
        yield from check_encoded(model, config)
        for version in versions_of(model):
            yield from _check_manifest(model / str(version))


def _check_folders(model: Path) -> Iterator[Finding]:
    versions = versions_of(model)
    if not versions:
        yield error(
            model, "has no version folder", "export the model again, or delete the folder", code="repository.no_version"
        )
    for folder in sorted(path for path in model.iterdir() if path.is_dir()):
        if folder.name not in (*map(str, versions), *SHARED_FOLDERS):
            yield warning(
                folder,
                "Triton ignores it: a version is a number without leading zeros",
                "delete it",
                code="repository.ignored_folder",
            )


def _check_serving(model: Path, config: ModelConfig) -> Iterator[Finding]:
    for doubt in unverified_accelerators(config):
        yield warning(
            model / CONFIG_FILE,
            doubt,
            "compare its outputs on the machine that serves it",
            code="repository.unverified_setting",
        )
    versions = versions_of(model)
    if versions and not versions_loaded(config, versions):
        yield error(
            model / CONFIG_FILE,
            "its version policy loads none of the versions here",
            "export with --versions",
            code="repository.version_policy",
        )
    for name, size in warmup_sizes(config).items():
        path = model / WARMUP_FOLDER / name
        found = path.stat().st_size if path.is_file() else -1
        if found < size:
            problem = f"has {found} bytes; warm-up reads {size}" if found >= 0 else "is missing; warm-up reads it"
            yield error(
                path, f"{problem}, so the model will not load", "export the model again", code="repository.warmup"
            )


def _public(text: str, path: Path) -> str | None:
    """The spec for clients as this version writes it; None where it cannot be read."""
    try:
        return ModelSpec.from_json(text, origin=str(path)).public().to_json()
    except TritonkitError:
        return None


def _check_spec(model: Path, config: ModelConfig, interface: Interface | None) -> Iterator[Finding]:
    """Check that model.json, the spec in config.pbtxt and the label files agree."""
    path = model / METADATA_KEY
    if not path.is_file():
        yield warning(
            path,
            "missing: not published by `builder`",
            "export the model with `builder export`",
            code="repository.no_spec",
        )
        return
    try:
        spec = ModelSpec.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    except (TritonkitError, UnicodeDecodeError) as reason:
        yield error(path, str(reason), "export the model again", code="repository.unreadable_spec")
        return
    if _public(config.parameters[METADATA_KEY].string_value, path) != spec.public().to_json():
        yield error(
            path,
            "differs from the spec in config.pbtxt, which clients read",
            "export the model again",
            code="repository.spec_differs",
        )
    for name, text in spec.label_files.items():
        if _content(model / name) != text.encode():
            count = text.count("\n")
            yield error(
                model / name,
                f"does not hold the {count} labels of the model",
                "export it again",
                code="repository.labels_differ",
            )
    if interface is not None and (differs := describe_difference(interface, interface_of(spec), "its spec says")):
        yield error(model, f"{CONFIG_FILE} {differs}", "export the model again", code="repository.config_interface")


def _check_version(folder: Path, config: ModelConfig, interface: Interface | None, loaded: bool) -> Iterator[Finding]:
    loading = backend_files(config)
    names = loading.plans.values() or ([loading.file] if default_file(loading.backend) else [])
    if missing := [name for name in names if not (folder / name).is_file()]:
        yield error(
            folder,
            f"has no {', '.join(missing)}, which backend {loading.backend} loads",
            "export it again",
            code="repository.no_artifact",
        )
        return
    yield from _check_manifest(folder)
    yield from _check_verdict(folder)
    for name in dict.fromkeys(names):
        if format_of(name) is not None:
            yield from _check_artifact(folder / name, config, interface, loaded)


def _check_artifact(
    artifact: Path, config: ModelConfig, interface: Interface | None, loaded: bool
) -> Iterator[Finding]:
    try:
        info = inspect_artifact(artifact)
    except TritonkitError as reason:
        yield error(artifact, str(reason), "export the model again", code=reason.code)
        return
    differs = (
        describe_difference(info.interface, interface, f"{CONFIG_FILE} says") if info.interface and interface else None
    )
    if differs and loaded:
        yield error(artifact, f"the graph {differs}", "export the model again", code="repository.graph_interface")
    elif differs and not can_promote(artifact.parent, info):
        yield warning(
            artifact,
            f"the graph {differs}, and the version has no spec of its own: it cannot be promoted",
            "delete the version",
            code="repository.not_promotable",
        )
    if _bf16_on_cpu(info, config):
        yield warning(
            artifact,
            "computes in bf16; ONNX Runtime has no bf16 kernels for CPUs, so only a Triton with a GPU can load it",
            "export it with --accelerator tensorrt for a GPU, or with --onnx fp16",
            code="repository.bf16_on_cpu",
        )


def _bf16_on_cpu(info: ArtifactInfo, config: ModelConfig) -> bool:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    has_tensorrt = any(accelerator.name == "tensorrt" for accelerator in accelerators)
    return info.precision == "bf16" and backend_of(config) == ONNX.backend and not has_tensorrt


def _check_manifest(folder: Path) -> Iterator[Finding]:
    try:
        manifest = Manifest.read(folder)
    except TritonkitError as reason:
        yield error(folder / Manifest.FILE, str(reason), "export the model again", code=reason.code)
        return
    if manifest is None:
        yield warning(
            folder,
            f"has no {Manifest.FILE}: its files cannot be verified",
            "export it with `builder`",
            code="repository.no_manifest",
        )
        return
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield error(
                path, "is in the manifest but missing", "export the model again", code="repository.missing_file"
            )
        elif path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
            damaged = damage_reason(path) if is_plan(path) else None
            message = damaged or "was changed since it was published (its hash differs)"
            yield error(path, message, "export the model again", code="repository.changed_file")
    for problem in stale_problems(manifest):
        yield _plan_finding(folder, problem)


def _check_plans(folder: Path, target: _Target) -> Iterator[Finding]:
    """Check whether plans load on their target: by their build record, else by the header of the file."""
    if target.image is None:
        return
    manifest = Manifest.find(folder)
    if manifest is not None and manifest.build is not None:
        for problem in plan_problems(manifest, target.image, target.compute_capability):
            yield _plan_finding(folder, problem)
        return
    for plan in sorted(folder.glob(f"*{TRT.suffix}")):
        try:
            problems = header_problems(plan, target.image)
        except TritonkitError:  # _check_artifact reports it
            continue
        for problem in problems:
            yield _plan_finding(plan, problem)


def _check_verdict(folder: Path) -> Iterator[Finding]:
    try:
        verdict = Verdict.read(folder)
    except TritonkitError as reason:
        yield error(folder / Verdict.FILE, str(reason), "export the model again", code=reason.code)
        return
    if verdict is None:
        yield warning(
            folder,
            "has no verdict: it was not compared with its checkpoint",
            "export it with `builder`",
            code="repository.no_verdict",
        )
    else:
        if verdict.forced:
            yield warning(
                folder,
                f"published with --force:\n{verdict.summary()}",
                "export it again without --force",
                code="repository.forced",
            )
        elif not verdict.passed:
            yield error(
                folder,
                f"its verdict failed:\n{verdict.summary()}",
                "export the model again",
                code="repository.failed_verdict",
            )
        known = next((known for known in known_formats() if known.name == verdict.format), None)
        if known is not None and "cpu" in known.runs_on:
            yield from int8_findings(folder / known.file, verdict.exact_int8, adds_int8_exactly())


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _plan_finding(path: Path, problem: PlanProblem) -> Finding:
    return Finding(
        severity=problem.severity, code=problem.code, path=str(path), message=problem.message, fix=problem.fix
    )
