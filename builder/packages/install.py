"""Install a package: check all of it first, then publish it as the next version of the model, atomically."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder.packages.archive import open_archive
from builder.packages.content import check_content, check_verdict, has_own_code, other_companion, owners_of, spec_of
from builder.packages.files import link_shared_files, link_tree, scratch_folder
from builder.packages.package import VERSION, Package
from builder.packages.renaming import rename_model
from builder.packages.writing import packaged_config
from builder.repository.encoded import check_companion_names, companions_for, has_encoded, update_companions
from builder.repository.publish import Publication, publication, replacement
from builder.repository.shared_files import SharedFiles, resolve_shared_files, shared_version, unverified_batch_warnings
from tritonkit.errors import ArtifactError, CheckFailedError, InputError
from tritonkit.export_options import UNCHANGED_SERVING
from tritonkit.repository.artifact_files import MARK_FILE
from tritonkit.repository.config_rules import unverified_accelerators
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.pipelines.members import AGAIN, pipelines_with
from tritonkit.repository.signing.check import check_signed
from tritonkit.repository.signing.signed_files import SignedFiles, shared_files
from tritonkit.repository.tuning.record import TuningRecord
from tritonkit.spec import Frozen
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import companions_of, ensemble_of
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    is_published,
    last_version,
    policy_text,
    read_config,
    versions_loaded,
    versions_of,
)


class InstalledPackage(Frozen):
    """A package that is in a repository."""

    model: str
    version: int
    folder: Path
    """The folder of the version."""
    models: tuple[str, ...]
    """The models that a running server must reload."""
    new: bool
    """False: the repository had the same content as this version already, and nothing was published."""
    served: bool
    """Triton loads the version, by the version policy of config.pbtxt."""
    verdict: str
    signed: bool
    """The signatures were checked with the public key."""
    warnings: tuple[str, ...] = ()


def install_package(
    path: Path,
    repository: Path,
    *,
    name: str | None = None,
    public_key: Path | None = None,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> InstalledPackage:
    """Install a package into a model repository as the next version of its model.

    name: install it under another name. public_key: refuse models that were not signed with its private key.
    force: accept a forced verdict. report: called with a sentence when a step starts.

    Everything is checked before the repository is touched. Raises InputError and ArtifactError for a file that is no
    safe package, CheckFailedError for a verdict that did not pass, or a missing or wrong signature.
    """
    report("checking the package")
    with open_archive(path) as archive, scratch_folder(repository) as scratch:
        root, package = scratch / "content", archive.package
        archive.unpack(root)
        check_content(root, package, force)
        owners = owners_of(root, package)
        if public_key is not None:
            check_signed(root, package.models, public_key)
            _check_companions(root, package)
        elif foreign := [owner for owner in owners if not has_own_code(root / owner)]:
            raise ArtifactError(
                f"{path}: {', '.join(foreign)} has Python code that this tritonkit does not ship; install it with "
                "--require-signed KEY, or package it with this version of tritonkit",
                code="package.foreign_code",
            )
        report("publishing")
        if name is not None and name != package.name:
            rename_model(root / package.name, name, signed=public_key is not None)
        installed = [
            _publish(root / owner, repository, (owner == package.name and name) or owner, public_key is not None)
            for owner in owners
        ]
    models = tuple(dict.fromkeys(model for one in installed for model in one.models))
    warnings = [warning for one in installed for warning in one.warnings]
    if public_key is not None:
        try:
            check_signed(repository, models, public_key)
        except CheckFailedError as refusal:  # such as an older version, which a version policy loads
            warnings.append(f"`server up --require-signed` would refuse it: {refusal}")
            public_key = None
    return installed[-1].model_copy(
        update={"models": models, "warnings": tuple(warnings), "signed": public_key is not None}
    )


def _check_companions(root: Path, package: Package) -> None:
    """Refuse decoders and ensembles that fit another model; without a signature this tritonkit makes its own."""
    for model in map(ModelFolder.read, (root / name for name in package.models)):
        if model.owner and (reason := other_companion(model)) is not None:
            raise ArtifactError(f"{package.name}: in the package, {model.name} {reason}", code="package.companion")


def _publish(staged: Path, repository: Path, name: str, verified: bool) -> InstalledPackage:
    """Publish a model of an unpacked package as its next version. verified: its signatures were checked."""
    live, version, warnings = repository / name, staged / VERSION, list[str]()
    verdict = check_verdict(version, force=True)
    encoded = any((staged.parent / companion).is_dir() for companion in companions_of(staged.name))
    if live.is_dir() and not is_published(live):
        raise InputError(
            f"{live}: was not published by `builder`; move it, or install the package under another --name",
            code="package.name_taken",
        )
    check_companion_names(repository, name, encoded)
    number = _installed_version(live, version)
    if new := number is None:
        with publication(repository, name) as prepared:
            number = prepared.version
            link_tree(version, prepared.version_folder)
            _write_unversioned(staged, prepared, repository, name, verified, warnings)
    elif shared_version(live) == number and not _has_same_unversioned(staged, repository, name, verified):
        with replacement(repository, name) as prepared:
            prepared.version = number
            _write_unversioned(staged, prepared, repository, name, verified, warnings)
        warnings.append(f"the configuration of {name} or its companions differed from the package: they were replaced")
    config = read_config(live)
    served = number in versions_loaded(config, versions_of(live))
    warnings += [*unverified_accelerators(config), *unverified_batch_warnings(live, config)]
    for pipeline in pipelines_with(repository, name) if new and served else ():
        warnings.append(f"the verdict of the pipeline {pipeline} is about another version of {name}; {AGAIN}")
    if not served:
        warnings.append(
            f"Triton does not load version {number} of {name}, because config.pbtxt loads {policy_text(config)}. Serve "
            f"it with: builder promote {name} {number}"
        )
    return InstalledPackage(
        model=name,
        version=number,
        folder=live / str(number),
        models=(name, *(companions_of(name) if has_encoded(repository, name) else ())),
        new=new,
        served=served,
        verdict=verdict.state,
        signed=verified,
        warnings=tuple(warnings),
    )


def _installed_version(live: Path, version: Path) -> int | None:
    """The version of a published model that has the same files; None without one. A mark is not compared."""
    files = _hashes(version)
    return next((number for number in versions_of(live) if _hashes(live / str(number)) == files), None)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir() if path.is_file() and path.name != MARK_FILE}


def _has_same_unversioned(staged: Path, repository: Path, name: str, verified: bool) -> bool:
    """Whether a published model has the shared files and the companions of a package. Tuned settings may differ,
    unless signatures cover them.
    """
    live, companions = repository / name, [staged.parent / companion for companion in companions_of(staged.name)]
    is_tuned = (live / TuningRecord.FILE).exists() and not verified
    packaged = SignedFiles.of(staged).model_copy(update={"model": name})
    if not is_tuned and packaged.differences(SignedFiles.of(live)):
        return False
    if not any(folder.is_dir() for folder in companions) and not has_encoded(repository, name):
        return True
    if verified and all(folder.is_dir() for folder in companions):
        return all(_is_same(folder, repository / folder.name) for folder in companions)
    return all(companion.is_current(repository) for companion in companions_for(repository, read_config(live)))


def _is_same(folder: Path, live: Path) -> bool:
    return (
        (live / CONFIG_FILE).is_file()
        and (live / VERSION).is_dir()
        and not SignedFiles.of(folder).differences(SignedFiles.of(live))
        and _hashes(folder / VERSION) == _hashes(live / VERSION)
    )


def _write_unversioned(
    staged: Path, prepared: Publication, repository: Path, name: str, verified: bool, warnings: list[str]
) -> None:
    """Write what lies outside the version folder: shared files, decoder and ensemble."""
    config = _write_shared_files(staged, prepared, name, warnings)
    if has_encoded(repository, name) or any((staged.parent / one).is_dir() for one in companions_of(staged.name)):
        _write_companions(staged, prepared, repository, config, verified)


def _write_shared_files(staged: Path, prepared: Publication, name: str, warnings: list[str]) -> ModelConfig:
    """Write the files that all versions share: the package's, or where Triton loads another version, that one's."""
    model = prepared.model
    present = read_config(model) if (model / CONFIG_FILE).is_file() else None
    last = max(prepared.version, 0 if present is None else last_version(present))
    added = SharedFiles(spec_of(staged), packaged_config(read_config(staged), last, present), None)
    is_older = prepared.version < versions_of(model)[-1]  # installed already, and pinned
    shared = added if is_older else resolve_shared_files(model, added, UNCHANGED_SERVING, None)
    shared.write(model)
    if shared is not added:
        return shared.config
    for stale in sorted({*shared_files(model)} - {*shared_files(staged), *shared.spec.label_files}):
        (model / stale).unlink()
        warnings.append(f"{name}/{stale}: was deleted, because the package does not have it")
    link_shared_files(staged, model)  # as they are, for a signature covers them
    if (model / TuningRecord.FILE).exists():
        (model / TuningRecord.FILE).unlink()
        warnings.append(f"the tuned settings of {name} were replaced by those of the package")
    return shared.config


def _write_companions(
    staged: Path, prepared: Publication, repository: Path, config: ModelConfig, verified: bool
) -> None:
    """Publish decoder and ensemble as packaged where their code can be trusted; else this tritonkit makes its own."""
    companions = [staged.parent / companion for companion in companions_of(staged.name)]
    is_served = prepared.version in versions_loaded(config, versions_of(prepared.model))
    fits = is_served and all(folder.is_dir() and folder.name in companions_of(config.name) for folder in companions)
    if not fits or not (verified or _are_own(staged)):
        update_companions(prepared.companions, repository, config)
        return
    prepared.companions.remove(ensemble_of(config.name))
    for folder in companions:
        link_tree(folder, prepared.companions.add(folder.name))


def _are_own(staged: Path) -> bool:
    """Whether the companions in an unsigned package are those that this tritonkit makes itself."""
    folders = [staged.parent / name for name in companions_of(staged.name)]
    current = all(one.is_current(staged.parent) for one in companions_for(staged.parent, read_config(staged)))
    return current and all(has_own_code(folder) for folder in folders)
