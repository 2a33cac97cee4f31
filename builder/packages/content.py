"""Check an unpacked package: its verdict, its files and what its configurations name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import builder
import tritonkit
from builder.packages.package import VERSION, Package
from builder.repository.encoded import companions_for
from builder.repository.lint import FURTHER_CHECKS
from tritonkit.errors import ArtifactError, CheckFailedError, Problem
from tritonkit.repository.artifact_files import MARK_FILE, SIGNATURE_FILE, SIGNED_FILE
from tritonkit.repository.lint import LintScope, lint
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.pipelines.members import refutes
from tritonkit.repository.signing.companions import companion_problem
from tritonkit.repository.signing.signed_files import shared_files
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import known_formats
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import PYTHON, backend_of
from tritonkit.triton.companions import ONE_PROCESS_BACKEND, companions_of
from tritonkit.triton.model_config import CONFIG_FILE, ENSEMBLE, read_config, read_config_file

PIPELINE = "pipeline"
"""The format in the verdict of a pipeline."""
NOT_IN_MANIFEST = frozenset({Manifest.FILE, MARK_FILE, SIGNATURE_FILE, SIGNED_FILE})
"""Files of a version that are written after its manifest."""
_FORBIDDEN = {
    "runtime": "names a library to load",
    "modelOperations": "names libraries to load",
    "modelRepositoryAgents": "names agents to load",
}
"""Fields of `ModelConfig`, as in its JSON, with which Triton loads other code than that of a known backend."""
_FORBIDDEN_PARAMETERS = {
    "EXECUTION_ENV_PATH": "names an environment to run code in",  # of the Python backend
    "CPU_EXTENSION_PATH": "names a library to load",  # of the OpenVINO backend
}
_NAMES_FILE = re.compile(r"path|file|lib|dir|plugin|extension", re.IGNORECASE)
"""In the name of an accelerator's parameter, whose value is a file or a library."""


def check_content(root: Path, package: Package, force: bool = False) -> None:
    """Check an unpacked package as a model repository, offline. force: also accept a verdict that was forced.

    Raises CheckFailedError where a model's verdict did not pass, ArtifactError with all other problems.
    """
    owners = owners_of(root, package)
    for name in owners:
        check_verdict(root / name / VERSION, force)
    problems = [
        *lint_problems(root),
        *(problem for name in package.models for problem in _folder_problems(root / name, owners)),
        *(problem for name in package.models for problem in version_problems(root / name / VERSION)),
        *(problem for name in package.models for problem in config_problems(root / name)),
    ]
    if problems:
        lines = "\n".join(f"  {str(problem).replace(f'{root}/', '')}" for problem in problems)
        raise ArtifactError(
            f"{package.name}: the package cannot be used:\n{lines}", code="package.content", problems=problems
        )


def owners_of(root: Path, package: Package) -> list[str]:
    """The members of a pipeline, then the model itself; the other models of a package are their companions.

    Raises ArtifactError where one is missing, or there are more.
    """
    members = spec_of(root / package.name).members
    owners = list(dict.fromkeys([*(member.model for member in members), package.name]))
    known = {*owners, *(companion for owner in owners for companion in companions_of(owner))}
    if (missing := set(owners) - set(package.models)) or (unknown := set(package.models) - known):
        raise ArtifactError(
            f"{package.name}: its package {'lacks' if missing else 'also has'} {', '.join(sorted(missing or unknown))}",
            code="package.companion",
        )
    return owners


def lint_problems(repository: Path, *models: str) -> Iterator[Problem]:
    """What `builder check` finds and a proof must not have."""
    for finding in lint(LintScope(repository, models=models), FURTHER_CHECKS)[1]:
        if refutes(finding):
            yield Problem(finding.code, f"{finding.path}: {finding.message}")


def other_companion(model: ModelFolder) -> str | None:
    """Why a decoder or an ensemble is not as this tritonkit makes it for its model; None where it is."""
    if (reason := companion_problem(model)) is not None:
        return reason
    expected = companions_for(model.path.parent, read_config(model.path.parent / model.owner))
    if any(one.name == model.name and not one.has_same_configs(model.path.parent) for one in expected):
        return f"has another configuration than `builder export` writes for {model.owner}"
    return None


def check_verdict(version: Path, force: bool = False) -> Verdict:
    """The verdict of a version; it must have passed, and say which model and artifact it is about.

    Raises ArtifactError where it is missing or does not, CheckFailedError where it failed, or was forced, unless
    `force` is set.
    """
    verdict, name = Verdict.read(version), f"{version.parent.name} version {version.name}"
    if verdict is None or verdict.artifact_sha256 is None or verdict.model is None:
        problem = "has no verdict" if verdict is None else "its verdict does not say which artifact it is about"
        raise ArtifactError(f"{name}: {problem}; export the model again", code="package.unbound_verdict")
    if not (verdict.passed or (verdict.forced and force)):
        hint = "; --force accepts a forced verdict" if verdict.forced else ""
        raise CheckFailedError(
            f"{name}: its verdict is {verdict.state}, not passed{hint}:\n{verdict.summary()}",
            verdict,
            code="verdict.not_passed",
        )
    return verdict


def spec_of(folder: Path) -> ModelSpec:
    """Read the spec of a model or version. Raises ArtifactError where it is missing."""
    spec = ModelSpec.read(folder)
    if spec is None:
        raise ArtifactError(f"{folder}: has no {ModelSpec.FILE}; export the model again", code="package.no_spec")
    return spec


def has_own_code(root: Path) -> bool:
    """Whether each file below a folder that Python can import is one that this tritonkit ships."""
    importable = [path for path in root.rglob("*") if path.suffix in (".py", ".pyc", ".so")]
    return all(file_sha256(path) in _own_code() for path in importable)


@cache
def _own_code() -> frozenset[str]:
    sources = [Path(module.__path__[0]) for module in (tritonkit, builder)]
    return frozenset(file_sha256(path) for source in sources for path in source.rglob("*.py"))


def _folder_problems(model: Path, owners: Collection[str]) -> Iterator[Problem]:
    """A companion without its model, and files that neither Triton nor a client reads."""
    owner = ModelFolder.read(model).owner
    if model.name in owners and owner:
        yield Problem("package.companion", f"{model}: says that it takes encoded images for {owner!r}")
    if model.name not in owners and (owner not in owners or model.name not in companions_of(owner)):
        yield Problem("package.companion", f"{model}: belongs to {owner!r}, which is not in the package")
    known = {CONFIG_FILE, Package.FILE, *shared_files(model)}
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        if path.parent != model / VERSION and path.relative_to(model).as_posix() not in known:
            yield Problem("package.unlisted_file", f"{path}: is no file of version {VERSION}, nor shared by versions")


def version_problems(version: Path) -> Iterator[Problem]:
    """Files of a version that its manifest does not list."""
    manifest = Manifest.find(version)
    listed = manifest.files if manifest is not None else {}
    for path in sorted(version.iterdir() if version.is_dir() else ()):
        if path.name not in listed and path.name not in NOT_IN_MANIFEST:
            yield Problem("package.unlisted_file", f"{path}: is not in the {Manifest.FILE} of its version")


def config_problems(model: Path) -> Iterator[Problem]:
    """What the configurations of a model name that is not a file or a backend of an exported model."""
    for path in (model / CONFIG_FILE, *sorted((model / "configs").glob("*.pbtxt"))):
        yield from _config_problems(model, path)


def _config_problems(model: Path, path: Path) -> Iterator[Problem]:
    from google.protobuf.json_format import MessageToDict

    config = read_config_file(path)
    backend = ENSEMBLE if config.HasField("ensemble_scheduling") else backend_of(config)
    known = {record.backend for record in known_formats() if record.backend} | {PYTHON, ENSEMBLE}
    if backend not in known | ({ONE_PROCESS_BACKEND} if path.parent.name == "configs" else set()):
        yield Problem("package.backend", f"{path}: backend {backend!r} is none that tritonkit exports to")
    if path.name == CONFIG_FILE:
        yield from _format_problems(model, path, backend)
    document = MessageToDict(config)
    for field, danger in _FORBIDDEN.items():
        if field in document:
            yield Problem("package.foreign_code", f"{path}: {field} {danger}, which a package may not")
    for name, danger in _FORBIDDEN_PARAMETERS.items():
        if name in config.parameters:
            yield Problem("package.foreign_code", f"{path}: {name} {danger}, which a package may not")
    accelerators = config.optimization.execution_accelerators
    for entry in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        for name in filter(_NAMES_FILE.search, entry.parameters):
            yield Problem("package.foreign_code", f"{path}: {name} of accelerator {entry.name} names a file to load")
    yield from _path_problems(model, path, document)


def _format_problems(model: Path, path: Path, backend: str) -> Iterator[Problem]:
    """Another backend than that of the artifact which the verdict is about: it would load another file."""
    backends = {record.name: record.served.backend for record in known_formats()} | {PIPELINE: PYTHON}
    for version in ModelFolder.read(model).loaded_versions:
        if (verdict := version.verdict) is not None and backends.get(verdict.format) != backend:
            yield Problem(
                "package.backend",
                f"{path}: backend {backend!r} does not serve {verdict.format}, which the verdict of version "
                f"{version.number} is about",
            )


def _path_problems(model: Path, path: Path, document: dict[str, Any]) -> Iterator[Problem]:
    """Values of a configuration that are paths; only the label files of another model in the package may be."""
    document.get("parameters", {}).pop(METADATA_KEY, None)  # the spec, which the linter compares
    for output in document.get("output", ()):
        if not (model / output.pop("labelFilename", "")).resolve().is_relative_to(model.parent.resolve()):
            yield Problem("package.unsafe_path", f"{path}: a label file lies outside the repository")
    for value in _strings(document):
        if "/" in value or "\\" in value or ".." in value:
            yield Problem("package.unsafe_path", f"{path}: {value!r:.100} is a path; expected names of files")


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON document, the names of maps too."""
    match value:
        case str():
            yield value
        case dict():
            for name, entry in value.items():
                yield name
                yield from _strings(entry)
        case list():
            for entry in value:
                yield from _strings(entry)
