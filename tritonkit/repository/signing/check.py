"""Check that what a server loads was signed, and proven: the same bytes, and a verdict that passed."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from tritonkit.errors import CheckFailedError, InputError, Problem, TritonkitError
from tritonkit.repository.artifact_files import MARK_FILE, SIGNATURE_FILE
from tritonkit.repository.lint import SHARED_FOLDERS, LintScope, check_spec, misplaced_verdict
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.model_folder import ModelFolder, VersionFolder
from tritonkit.repository.pipelines.members import check_members, refutes
from tritonkit.repository.signing.companions import companion_problem
from tritonkit.repository.signing.signed_files import SignedFiles, shared_files
from tritonkit.repository.tuning.record import TuningRecord
from tritonkit.spec import ModelSpec
from tritonkit.system.files import file_sha256
from tritonkit.triton.model_config import CONFIG_FILE, holds_model, misread_versions, versions_of

PYTHON_CACHE = "__pycache__"
"""Triton's Python backend writes it beside the code of a model, and runs it instead of code with the same time."""
_RECORDS = frozenset({TuningRecord.FILE, "versions.json", "package.json"})
"""Files of a model's folder that neither Triton nor a client reads, so they may change."""
_MAX_SIGNATURE = 4 * 2**20
"""The longest signature that is read, in bytes."""
_MISMATCH = "Signature mismatch: "
"""How `model_signing` begins the message for files that differ from the signed ones."""
_INSTALL = "install what signatures need with: pip install 'tritonkit[signing]'"


def check_signed(repository: Path, models: Iterable[str], public_key: Path) -> None:
    """Check the signatures of what Triton would load: the loaded versions of models, and the members of ensembles.

    models: empty means all folders of the repository in which Triton finds a version. public_key: PEM, of an elliptic
    curve. Raises CheckFailedError with one problem for each model that is not signed, was changed, has the signature of
    other content, or has no passed verdict; InputError for an unusable key.
    """
    check_public_key(public_key)
    pending = [*models] or sorted(path.name for path in repository.iterdir() if _may_load(path))
    problems, checked = list[Problem](), set[str]()
    while pending:
        name = pending.pop(0)
        if name in checked:
            continue
        checked.add(name)
        try:
            model = ModelFolder.read(repository / name)
            problems += _model_problems(model, public_key)
            pending += [model.owner] if model.owner else []  # a decoder or an ensemble is compared with it
            pending += [step.model_name for step in model.config.ensemble_scheduling.step]
            spec = ModelSpec.read(model.path)
            pending += [member.model for member in (spec.members if spec else ())]
        except (TritonkitError, OSError) as error:
            problems.append(Problem("signature.unreadable", f"{name}: {error}"))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CheckFailedError(
            f"not everything that Triton would load is signed with the key of {public_key}:\n{lines}",
            code=problems[0].code,
            problems=problems,
        )


def delete_python_caches(repository: Path) -> None:
    """Delete the caches of Python in a repository, which no signature covers. Raises CheckFailedError if one stays."""
    for cache in repository.glob(f"*/*/{PYTHON_CACHE}"):
        shutil.rmtree(cache, ignore_errors=True)
        if cache.exists():
            raise CheckFailedError(
                f"{cache}: may contain code that is not signed, and cannot be deleted; delete it",
                code="signature.python_cache",
            )


def _may_load(folder: Path) -> bool:
    """Whether Triton might find a model in a folder of the repository, hidden folders too."""
    return folder.is_dir() and bool(holds_model(folder) or versions_of(folder))


def check_public_key(public_key: Path) -> None:
    """Raise InputError where the file is not a public key of an elliptic curve, or `model-signing` is missing."""
    verifying = signing_library("verifying")
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{public_key}: not a public key of an elliptic curve in PEM format ({reason}); make one with: openssl ec "
            "-in private.pem -pubout -out model.pub",
            code="signature.public_key",
        ) from error


def signing_library(module: str) -> Any:
    """A module of the library `model-signing`. Raises InputError where it, or a library that it needs, is missing."""
    try:
        return import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing; {_INSTALL}", code="install.missing_module") from error


def hashing_config() -> Any:
    """What a signature covers: all files of the version folder but the signature, the mark and caches of Python."""
    config = signing_library("hashing").Config()
    return config.set_ignored_paths(paths=[SIGNATURE_FILE, MARK_FILE, PYTHON_CACHE], ignore_git_paths=False)


def _model_problems(model: ModelFolder, public_key: Path) -> Iterator[Problem]:
    """The problems of the versions that Triton loads; the newest of them has the configuration of the model."""
    if not model.loaded_versions or misread_versions(model.path, model.config):
        yield Problem("signature.missing", f"{model.name}: Triton may load folders of it that are no signed versions")
    if unknown := unknown_entries(model):
        yield Problem(
            "signature.changed_file",
            f"{model.name}: has {', '.join(unknown)}, which no signature covers, and which code may be loaded from",
        )
    for version in model.loaded_versions:
        name = f"{model.name} version {version.number}"
        if (problem := _signature_problem(version, name, public_key)) is not None:
            yield problem
            continue
        if not model.owner and (reason := _unproven(version, model.name)) is not None:
            yield Problem("signature.unproven", f"{name}: {reason}")
        if differing := _differences(model, version):
            yield Problem("signature.configuration", f"{name}: was changed since it was signed: {', '.join(differing)}")
    for reason in _served_otherwise(model):
        yield Problem("signature.unproven", f"{model.name}: {reason}")


def _served_otherwise(model: ModelFolder) -> Iterator[str]:
    """How labels, spec and members differ from those that the newest loaded version was verified with.

    A decoder or an ensemble needs no verdict; in return it must be the one of its model.
    """
    if model.owner and (reason := companion_problem(model)) is not None:
        yield reason
    for finding in (*check_spec(model, LintScope(model.path.parent)), *check_members(model)):
        if refutes(finding):
            yield f"{finding.path}: {finding.message}"


def unknown_entries(model: ModelFolder) -> list[str]:
    """The names in a model's folder that are neither a version nor a file that versions share.

    Triton's Python backend finds modules there: `1.py` wins over the folder `1`.
    """
    files = {CONFIG_FILE, *_RECORDS, *shared_files(model.path)}
    folders = {*SHARED_FOLDERS, *(version.path.name for version in model.versions)}
    return sorted(path.name for path in model.path.iterdir() if path.name not in (folders if path.is_dir() else files))


def _differences(model: ModelFolder, version: VersionFolder) -> list[str]:
    """What differs from the signed files outside the version folder; of older loaded versions, the name alone."""
    signed = SignedFiles.read(version.path)
    if signed is None:
        return ["all of it"]
    if version != model.loaded_versions[-1]:
        return [f"the name {signed.model}"] if signed.model != model.name else []
    spec = ModelSpec.read(version.path)  # signed; a later tritonkit writes the same spec with more fields
    same = {ModelSpec.FILE} if spec is not None and spec == ModelSpec.read(model.path) else set()
    return [name for name in signed.differences(SignedFiles.of(model.path)) if name not in same]


def _signature_problem(version: VersionFolder, name: str, public_key: Path) -> Problem | None:
    from cryptography.exceptions import InvalidSignature

    signature = version.path / SIGNATURE_FILE
    if not signature.is_file():
        return Problem("signature.missing", f"{name}: is not signed; sign it with `builder sign`")
    if signature.stat().st_size > _MAX_SIGNATURE:
        return Problem("signature.invalid", f"{name}: its signature has more than {_MAX_SIGNATURE:,} bytes")
    verifier = signing_library("verifying").Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(hashing_config()).verify(version.path, signature)
    except InvalidSignature:
        return Problem("signature.invalid", f"{name}: its signature was changed, or is not of this key")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = str(error)
        if not message.startswith(_MISMATCH):
            return Problem("signature.invalid", f"{name}: its signature is not of this key, or damaged ({message})")
        return _mismatch(version, name)
    return None


def _mismatch(version: VersionFolder, name: str) -> Problem:
    """Tell a changed file from a signature that belongs to other content, such as an earlier version."""
    present = {
        path.relative_to(version.path).as_posix(): file_sha256(path)
        for path in version.path.rglob("*")
        if path.is_file() and path.name not in (SIGNATURE_FILE, MARK_FILE) and PYTHON_CACHE not in path.parts
    }
    changed = {file for file, _ in present.items() ^ _signed_digests(version.path / SIGNATURE_FILE).items()}
    entries = version.manifest.files if version.manifest is not None else {}
    if entries and Manifest.FILE in changed and all(present.get(file) == one.sha256 for file, one in entries.items()):
        return Problem(
            "signature.other_version", f"{name}: has the signature of other content, such as an earlier version"
        )
    return Problem("signature.changed_file", f"{name}: was changed since it was signed: {', '.join(sorted(changed))}")


def _signed_digests(signature: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, from a signature that has been verified: in-toto's statement, as JSON.

    The library's own message about a difference is not made to be parsed.
    """
    envelope = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {resource["name"]: resource["digest"] for resource in statement["predicate"]["resources"]}


def _unproven(version: VersionFolder, model: str) -> str | None:
    """Why the verdict does not prove the answers of the artifact; None where it does."""
    verdict = version.verdict
    if verdict is None:
        return "is signed, but has no verdict"
    if not verdict.passed:
        return f"is signed, but its verdict is {verdict.state}, not passed"
    if verdict.model is None or verdict.artifact_sha256 is None:
        return "is signed, but its verdict does not say which artifact it is about"
    if verdict.model != model:
        return f"is signed, but its verdict is about model {verdict.model}"
    return misplaced_verdict(version.path, verdict)
