"""Delete old versions: the newest are kept, and all that are marked or served.

A version is renamed into the staging folder beside the repository and deleted there. So a killed builder leaves a
version complete or removed; the next builder deletes the rest of the staging folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

from builder.repository.publish import staging
from builder.repository.versions import Model, Version, model_versions
from tritonkit.errors import ArtifactError, InputError
from tritonkit.spec import Frozen


class KeptVersion(Frozen):
    """An old version that was not deleted, with the reason."""

    version: int
    reason: str


class Retention(Frozen):
    """The result of deleting old versions."""

    model: str
    keep: int
    deleted: tuple[int, ...] = ()
    freed_bytes: int = 0
    kept: tuple[KeptVersion, ...] = ()
    """Old versions that were not deleted."""

    def summary(self) -> str:
        """The result in one sentence."""
        deleted = f"deleted {', '.join(map(str, self.deleted))}" if self.deleted else "deleted nothing"
        kept = "; ".join(f"{version.version} stays: {version.reason}" for version in self.kept)
        return f"{self.model}: {deleted}{f' ({kept})' if kept else ''}"


def keep_newest(folder: Path, keep: int, served_before: Collection[int] = ()) -> Retention:
    """Delete a model's versions, except the newest `keep` and those that are marked or served.

    served_before: versions that the version policy loaded until now; running servers may still have them loaded.
    Raises InputError for keep < 1, ArtifactError where another builder is running; then nothing is deleted.
    """
    if keep < 1:
        raise InputError(f"--keep {keep}: expected 1 or more; to remove a model delete its folder", code="option.keep")
    with staging(folder.parent) as staging_folder:
        model = model_versions(folder)
        older = model.versions[:-keep]
        reasons = {version.version: _keep_reason(version, model, served_before) for version in older}
        to_delete = [version for version in older if not reasons[version.version]]
        for version in to_delete:
            _move_out(
                folder / str(version.version), staging_folder / f"{folder.name}-{version.version}-{uuid4().hex[:8]}"
            )
        return Retention(
            model=model.name,
            keep=keep,
            deleted=tuple(version.version for version in to_delete),
            freed_bytes=sum(version.bytes for version in to_delete),
            kept=tuple(KeptVersion(version=number, reason=reason) for number, reason in reasons.items() if reason),
        )


def _keep_reason(version: Version, model: Model, before: Collection[int]) -> str:
    """Why a version must be kept; empty where it can be deleted."""
    if version.mark is not None:
        return f"marked ({version.mark.note})" if version.mark.note else "marked"
    if version.served:
        return f"the version policy {model.policy} serves it"
    return "served until now" if version.version in before else ""


def _move_out(version: Path, target: Path) -> None:
    try:
        version.rename(target)
        descriptor = os.open(version.parent, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(
            f"{version}: cannot be moved out of the repository ({error.strerror})", code="repository.delete_version"
        ) from error
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
