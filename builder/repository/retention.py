"""Deleting old versions: the newest are kept, and whatever is marked or being served.

A version leaves the repository by one rename into the staging folder beside it, and is deleted there. Whenever the
builder is killed, a version is whole or gone; the next builder deletes what is left in the staging folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

from builder.repository.held import NO_SERVER, LoadedVersions, Servers
from builder.repository.publish import staging
from builder.repository.versions import Model, Version, model_versions
from model.errors import ArtifactError, InputError
from model.spec import Frozen

NOBODY = Servers((NO_SERVER,))


class Spared(Frozen):
    """A version that is beyond the number to keep and stays."""

    version: int
    reason: str


class Retention(Frozen):
    """What deleting old versions came to."""

    model: str
    keep: int
    deleted: tuple[int, ...] = ()
    freed_bytes: int = 0
    spared: tuple[Spared, ...] = ()
    asked: tuple[str, ...] = ()
    """The servers that said what they hold."""

    def summary(self) -> str:
        """One sentence."""
        gone = f"deleted {', '.join(map(str, self.deleted))}" if self.deleted else "deleted nothing"
        stays = "; ".join(f"{spared.version} stays: {spared.reason}" for spared in self.spared)
        unasked = "; no server was asked what it holds: name those that run with --url" if not self.asked else ""
        return f"{self.model}: {gone}{f' ({stays})' if stays else ''}{unasked if self.deleted else ''}"


def keep_newest(folder: Path, keep: int, servers: Servers = NOBODY, before: Collection[int] = ()) -> Retention:
    """Delete a model's versions but the newest `keep`, those marked, those its version policy loads, and those that
    `servers` hold of a model of this name.

    before: versions that the policy loaded until now, as before a publication: running servers still hold them.
    What other servers hold is not known here: a version that one still holds keeps answering there until it is
    loaded again. Raises InputError for keep < 1, ArtifactError when another builder is at work, and what
    `Servers.holding` raises; then nothing is deleted.
    """
    if keep < 1:
        raise InputError(f"--keep {keep}: expected 1 or more; to remove a model delete its folder")
    with staging(folder.parent) as aside:
        held = servers.holding(folder.name)
        model = model_versions(folder, held)
        older = model.versions[:-keep]
        reasons = {version.version: _protection(version, model, held, before) for version in older}
        doomed = [version for version in older if not reasons[version.version]]
        for version in doomed:
            _move_out(folder / str(version.version), aside / f"{folder.name}-{version.version}-{uuid4().hex[:8]}")
        return Retention(
            model=model.name,
            keep=keep,
            deleted=tuple(version.version for version in doomed),
            freed_bytes=sum(version.bytes for version in doomed),
            spared=tuple(Spared(version=number, reason=reason) for number, reason in reasons.items() if reason),
            asked=held.asked,
        )


def _protection(version: Version, model: Model, held: LoadedVersions, before: Collection[int]) -> str:
    """Why a version may not be deleted; empty when it may."""
    if version.mark is not None:
        return f"marked ({version.mark.note})" if version.mark.note else "marked"
    if version.served:
        return f"the version policy {model.policy} serves it"
    if version.version in held.by:
        return f"the server at {held.by[version.version]} holds it"
    return "served until now" if version.version in before else ""


def _move_out(version: Path, aside: Path) -> None:
    try:
        version.rename(aside)
        descriptor = os.open(version.parent, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(f"{version}: cannot be moved out of the repository ({error.strerror})") from error
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
