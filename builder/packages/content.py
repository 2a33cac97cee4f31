"""Check an unpacked package: its verdict, its files and what its configurations name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import builder
import tritonkit
from builder.config.encoded import ONE_PROCESS_BACKEND
from builder.packages.package import VERSION, Package
from tritonkit.errors import ArtifactError, CheckFailedError, Problem
from tritonkit.repository.artifact_files import MARK_FILE, SIGNATURE_FILE, SIGNED_FILE
from tritonkit.repository.lint import LintScope, lint
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.signing.signed_files import shared_files
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import known_formats
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import PYTHON, backend_of
from tritonkit.triton.companions import companions_of
from tritonkit.triton.model_config import CONFIG_FILE, ENSEMBLE, read_config_file

NOT_IN_MANIFEST = frozenset({Manifest.FILE, MARK_FILE, SIGNATURE_FILE, SIGNED_FILE})
"""Files of a version that are written after its manifest."""
_FORBIDDEN = {
    "runtime": "names a library to load",
    "modelOperations": "names libraries to load",
    "modelRepositoryAgents": "names agents to load",
}
"""Fields of `ModelConfig`, as in its JSON, with which Triton loads other code than that of a known backend."""
_FORBIDDEN_PARAMETER = "EXECUTION_ENV_PATH"
"""The Python environment that Triton's Python backend runs a model in."""


def check_content(root: Path, package: Package, force: bool = False) -> None:
    """Check an unpacked package as a model repository, offline. force: also accept a verdict that was forced.

    Raises CheckFailedError where a model's verdict did not pass, ArtifactError with all other problems.
    """
    companions = {name for name in package.models if ModelFolder.read(root / name).owner}
    for name in package.models:
        if name not in companions:
            check_verdict(root / name / VERSION, force)
    findings = [finding for finding in lint(LintScope(root))[1] if finding.severity == "error"]
    problems = [
        *(Problem(finding.code, f"{finding.path}: {finding.message}") for finding in findings),
        *(problem for name in package.models for problem in _folder_problems(root / name)),
        *(problem for name in package.models for problem in version_problems(root / name / VERSION)),
        *(problem for name in package.models for problem in config_problems(root / name)),
    ]
    if problems:
        lines = "\n".join(f"  {str(problem).replace(f'{root}/', '')}" for problem in problems)
        raise ArtifactError(
            f"{package.name}: the package cannot be used:\n{lines}", code="package.content", problems=problems
        )


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


def _folder_problems(model: Path) -> Iterator[Problem]:
    """A companion without its model, and files that neither Triton nor a client reads."""
    owner = ModelFolder.read(model).owner
    if owner and (model.name not in companions_of(owner) or not (model.parent / owner).is_dir()):
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
    document = MessageToDict(config)
    for field, danger in _FORBIDDEN.items():
        if field in document:
            yield Problem("package.foreign_code", f"{path}: {field} {danger}, which a package may not")
    if _FORBIDDEN_PARAMETER in config.parameters:
        yield Problem("package.foreign_code", f"{path}: {_FORBIDDEN_PARAMETER} names an environment to run code in")
    yield from _path_problems(model, path, document)


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
