"""The members of a pipeline: whether the repository still holds the models that it was verified with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.model_folder import ModelFolder, VersionFolder
from tritonkit.repository.pipelines.settings import PipelineSettings
from tritonkit.runtimes.formats import model_files
from tritonkit.spec import METADATA_KEY, ModelSpec, PipelineSpec
from tritonkit.system.files import file_sha256

AGAIN = "run `builder pipeline` again"


def pipeline_of(model: Path) -> PipelineSpec | None:
    """Return what the pipeline in a model's folder calls; None for a model, and where its spec cannot be read."""
    try:
        spec = ModelSpec.read(model)
    except TritonkitError:  # `builder check` reports it
        return None
    return None if spec is None else spec.pipeline


def with_members(repository: Path, models: Iterable[str]) -> list[str]:
    """Return names of models, and before each pipeline the models that it calls, without duplicates.

    Triton loads the members of an ensemble by itself, but not those of a pipeline.
    """
    names: dict[str, None] = {}
    for model in models:
        pipeline = pipeline_of(repository / model)
        names |= dict.fromkeys((*(member.model for member in pipeline.members), model) if pipeline else (model,))
    return list(names)


def pipelines_with(repository: Path, member: str) -> list[str]:
    """Return the pipelines of a repository that call a model."""
    found = {path.parent.name: pipeline_of(path.parent) for path in sorted(repository.glob(f"*/{ModelSpec.FILE}"))}
    return [
        name
        for name, pipeline in found.items()
        if pipeline is not None and any(entry.model == member for entry in pipeline.members)
    ]


def refutes(finding: Finding) -> bool:
    """Whether a package or a signature, which are proofs, is refused for a finding: errors, and another member."""
    return finding.severity == "error" or finding.code == "pipeline.other_version"


def artifact_digest(version: VersionFolder, file: str) -> str:
    """Return the SHA-256 of an artifact in a version folder; of one with weights in a second file, that of both.

    Hashes come from the manifest where it has them; `builder check` compares it with the files.
    """
    entries = version.manifest.files if version.manifest is not None else {}
    digests = [
        entries[path.name].sha256 if path.name in entries else file_sha256(path)
        for path in model_files(version.path / file)
    ]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def served_spec(model: ModelFolder) -> ModelSpec:
    """Read the spec in the configuration of a model, which clients read. Raises SpecError for a model without one."""
    text = model.config.parameters[METADATA_KEY].string_value if METADATA_KEY in model.config.parameters else ""
    return ModelSpec.from_json(text, origin=str(model.config_file))


def check_members(model: ModelFolder) -> Iterator[Finding]:
    """Check that a pipeline's models exist, take its requests, and are those that it was verified with."""
    pipeline = pipeline_of(model.path)
    if pipeline is None:
        return
    called: list[ModelFolder] = []
    for member in pipeline.members:
        folder = model.path.parent / member.model
        if not folder.is_dir():
            message = f"calls {member.model!r}, which is not in the repository"
            yield error(model.path, message, "export that model", code="pipeline.no_member")
            continue
        try:
            called.append(ModelFolder.read(folder))
        except TritonkitError:  # reported by the checks of that model
            continue
    if len(called) == len(pipeline.members):
        yield from _check_requests(model, pipeline, called)
        yield from _check_versions(model, pipeline, called)


def _check_requests(model: ModelFolder, pipeline: PipelineSpec, called: list[ModelFolder]) -> Iterator[Finding]:
    """Check that the members take the batches, the preprocessing and the labels that the pipeline was built with."""
    for member, folder in zip(pipeline.members, called, strict=True):
        if folder.config.max_batch_size < member.max_batch:
            yield error(
                folder.config_file,
                f"its max_batch_size is {folder.config.max_batch_size}, but the pipeline {model.name} sends up to "
                f"{member.max_batch} images",
                AGAIN,
                code="pipeline.batch",
            )
    for version in model.loaded_versions[-1:]:
        try:
            settings = PipelineSettings.read(version.path)
            expected = PipelineSettings.of(pipeline, *map(served_spec, called))
        except (TritonkitError, ValueError) as reason:
            message = f"does not fit its models: {reason}"
            yield error(version.path, message, AGAIN, code="pipeline.settings")
            continue
        if settings != expected:
            names = " or ".join(member.model for member in pipeline.members)
            message = f"preprocessing or labels of {names} were changed since it was published, so it answers wrongly"
            yield error(version.path / PipelineSettings.FILE, message, AGAIN, code="pipeline.settings")


def _check_versions(model: ModelFolder, pipeline: PipelineSpec, called: list[ModelFolder]) -> Iterator[Finding]:
    """Check that the served artifact of each member is the one that the pipeline was verified with."""
    for member, folder in zip(pipeline.members, called, strict=True):
        for version in folder.loaded_versions[-1:]:
            paths = [version.path / name for name in folder.files]
            if not paths or not paths[0].is_file():  # reported by the checks of that model
                continue
            if artifact_digest(version, paths[0].name) != member.sha256:
                yield warning(
                    model.path,
                    f"its verdict is about version {member.version} of {member.model}, but version {version.number}, "
                    "which Triton serves, is another model",
                    AGAIN,
                    code="pipeline.other_version",
                )
