"""Delete old versions: the newest are kept, and all that are marked or served.

A version is renamed into the staging folder beside the repository and deleted there. So a killed builder leaves a
version complete or removed; the next builder deletes the rest of the staging folder.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from builder.repository.publish import flush, new_staging_path, staging
from builder.repository.versions import model_versions
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
    Raises InputError for keep < 1, ArtifactError where another builder is running; then nothing is deleted. Raises
    ArtifactError where a version cannot be moved; those before it are deleted.
    """
    if keep < 1:
        raise InputError(f"--keep {keep}: expected 1 or more; to remove a model delete its folder", code="option.keep")
    deleted, kept = [], []
    with staging(folder.parent) as staging_folder:
        model = model_versions(folder)
        for version in model.versions[:-keep]:
            reason = "served until now" if version.version in served_before else ""
            if version.served:
                reason = f"the version policy {model.policy} serves it"
            if version.mark is not None:
                reason = f"marked ({version.mark.note})" if version.mark.note else "marked"
            if reason:
                kept.append(KeptVersion(version=version.version, reason=reason))
                continue
            path = folder / str(version.version)
            try:
                path.rename(new_staging_path(staging_folder, f"{folder.name}-{version.version}"))
                flush(folder)
            except OSError as error:
                raise ArtifactError(
                    f"{path}: cannot be moved out of the repository for good ({error.strerror})",
                    code="repository.delete_version",
                ) from error
            deleted.append(version)
    return Retention(
        model=folder.name,
        keep=keep,
        deleted=tuple(version.version for version in deleted),
        freed_bytes=sum(version.bytes for version in deleted),
        kept=tuple(kept),
    )
