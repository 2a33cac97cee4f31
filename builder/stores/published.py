"""Push a published model to a store, and install a package from one: both keep the table of semantic versions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from builder.packages import InstalledPackage, install_package, write_package
from builder.packages.archive import open_archive
from builder.packages.content import check_content
from builder.packages.files import scratch_folder
from builder.repository.semantic_versions import SemanticVersions, record_version
from builder.repository.shared_files import shared_version
from builder.stores.transfer import Pulled, Pushed, pull, push
from tritonkit.remotes.cache import cache_folder

Report = Callable[[str], None]


def push_package(path: Path, address: str, name: str | None, version: str) -> Pushed:
    """Check a package as `builder install` does, and push it. name: in the store; None is that of the model.

    A package that was forced can be pushed. Raises what `open_archive`, `check_content` and `push` raise.
    """
    with open_archive(path) as archive, scratch_folder(path.parent) as scratch:
        archive.unpack(scratch)
        check_content(scratch, archive.package, force=True)
        name = name or archive.package.name
    return push(path, address, name, version)


def push_model(folder: Path, number: int | None, address: str, name: str, version: str) -> Pushed:
    """Package one version of a published model, push it, and record its semantic version.

    number: Triton's version; None is the newest that is served. Raises what `write_package` and `push` raise, and
    InputError if the model has the semantic version for another of Triton's.
    """
    number = number or shared_version(folder) or 0
    SemanticVersions.of(folder).check(version, folder, number=number)
    with scratch_folder(folder.parent) as scratch:
        pushed = push(write_package(folder, number, scratch), address, name, version)
    record_version(folder, version, number, str(pushed.package.sha256))
    return pushed


def pull_to_cache(address: str, reference: str) -> Pulled:
    """Pull a package into the cache, where a broken transfer continues. Raises what `pull` raises."""
    folder = cache_folder() / "packages" / hashlib.sha256(address.encode()).hexdigest()[:12]
    return pull(address, reference, lambda stored: folder / f"{stored.name}-{stored.version}.zip")


def install_pulled(
    pulled: Pulled, repository: Path, report: Report, *, public_key: Path | None = None, force: bool = False
) -> InstalledPackage:
    """Install a pulled package into a repository, record its semantic version, and delete it from the cache.

    Raises what `install_package` raises, and InputError if the repository has the semantic version with other content.
    """
    version, sha256 = pulled.package.version, str(pulled.package.sha256)
    with open_archive(pulled.path) as archive:
        model = repository / archive.package.name
    SemanticVersions.of(model).check(version, model, sha256=sha256)
    installed = install_package(pulled.path, repository, public_key=public_key, force=force, report=report)
    record_version(model, version, installed.version, sha256)
    pulled.path.unlink(missing_ok=True)  # another pull of this version may have deleted it
    return installed
