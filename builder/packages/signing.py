"""Sign what was proven: a signature says that these bytes passed this verdict."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from builder.packages.archive import open_archive
from builder.packages.content import (
    check_content,
    check_verdict,
    config_problems,
    has_own_code,
    lint_problems,
    other_companion,
    spec_of,
    version_problems,
)
from builder.packages.files import scratch_folder
from builder.packages.writing import write_package_file, zip_package
from builder.repository.publish import staging
from tritonkit.errors import CheckFailedError, InputError, Problem, TritonkitError
from tritonkit.repository.artifact_files import SIGNATURE_FILE
from tritonkit.repository.model_folder import ModelFolder, find_models
from tritonkit.repository.signing.check import delete_python_caches, hashing_config, signing_library, unknown_entries
from tritonkit.repository.signing.signed_files import SignedFiles
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write
from tritonkit.triton.companions import companions_of

PASSWORD_VARIABLE = "TRITONKIT_KEY_PASSWORD"  # noqa: S105 - its name
"""The password of an encrypted private key."""


class SignedVersion(Frozen):
    """A version that was signed."""

    model: str
    version: int
    folder: Path
    """The version folder, with the signature."""


def sign_package(path: Path, private_key: Path) -> list[SignedVersion]:
    """Sign all models of a package; the file is replaced by one with the signatures. Raises what `sign_models` does."""
    signer = _signer(private_key)
    with open_archive(path) as archive, scratch_folder(path) as scratch:
        root = scratch / "content"
        archive.unpack(root)
        check_content(root, archive.package)
        signed = _sign(root, archive.package.models, signer)
        zip_package(root, write_package_file(root, archive.package.name), path)
    return signed


def sign_models(repository: Path, names: Iterable[str], private_key: Path) -> list[SignedVersion]:
    """Sign the versions of models that Triton loads, with their decoders and ensembles, and members of pipelines.

    names: empty means all models. private_key: PEM, of an elliptic curve.

    Raises CheckFailedError, and signs nothing, where a file was changed since it was published, the verdict did not
    pass, or Python code is not tritonkit's; InputError for an unusable key.
    """
    signer = _signer(private_key)
    with staging(repository):  # no builder changes the models meanwhile
        present = find_models(repository, names)
        delete_python_caches(repository)
        chosen = dict.fromkeys(name for model in [*names] or present for name in _belonging(repository / model))
        return _sign(repository, [name for name in chosen if name in present], signer)


def _belonging(model: Path) -> list[str]:
    """A model, its decoder and ensemble, and for a pipeline also its members with theirs."""
    owner = ModelFolder.read(model).owner
    members = () if owner else spec_of(model).members
    names = [model.name, *(member.model for member in members)]
    return [*names, *(companion for name in names for companion in companions_of(name))]


def _sign(repository: Path, names: Iterable[str], signer: Any) -> list[SignedVersion]:
    """Sign the loaded versions of models; nothing where one of them is refused."""
    models = [ModelFolder.read(repository / name) for name in names]
    if problems := [problem for model in models for problem in _refusals(repository, model)]:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CheckFailedError(
            f"{repository}: nothing was signed:\n{lines}", code="signature.refused", problems=problems
        )
    signed = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            for version in model.loaded_versions:
                SignedFiles.of(model.path).write(version.path)
                signer.sign(version.path, Path(scratch) / SIGNATURE_FILE)  # not in the folder that is being hashed
                with atomic_write(version.path / SIGNATURE_FILE) as temporary:
                    shutil.copyfile(Path(scratch) / SIGNATURE_FILE, temporary)
                signed.append(SignedVersion(model=model.name, version=version.number, folder=version.path))
    return signed


def _refusals(repository: Path, model: ModelFolder) -> Iterator[Problem]:
    """Why a model is not signed: changed files, no passed verdict, code or companions that are not tritonkit's."""
    yield from lint_problems(repository, model.name)
    yield from config_problems(model.path)
    for name in unknown_entries(model):
        yield Problem("package.unlisted_file", f"{model.path / name}: is no version, nor shared by versions; move it")
    if model.owner and (reason := other_companion(model)) is not None:
        yield Problem("package.companion", f"{model.path}: {reason}; export {model.owner} again")
    for version in model.loaded_versions:
        yield from version_problems(version.path)
        if not has_own_code(version.path):
            yield Problem(
                "package.foreign_code", f"{version.path}: has Python code that this tritonkit does not ship; export it"
            )
        if not model.owner:
            try:
                check_verdict(version.path)
            except TritonkitError as reason:
                yield Problem(reason.code, str(reason))


def _signer(private_key: Path) -> Any:
    """A signer with this key. Raises InputError for an unusable key, a wrong password or a missing library."""
    signing = signing_library("signing")
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        signer = signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=None if password is None else password.encode()
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{private_key}: not a private key of an elliptic curve in PEM format, or another password than that in "
            f"{PASSWORD_VARIABLE} ({reason}); make a key with: openssl ecparam -name prime256v1 -genkey -noout -out "
            "private.pem",
            code="signature.private_key",
        ) from error
    return signer.set_hashing_config(hashing_config())
