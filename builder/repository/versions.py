"""The versions of a published model: what each is, whether someone marked it, and whether it is being served."""

from __future__ import annotations

import os
from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder.proving.verdict import VERDICT_FILE, Verdict
from builder.repository.held import LoadedVersions
from builder.repository.publish import staging
from model.encoded import without_encoded
from model.errors import ArtifactError, InputError
from model.manifest import MANIFEST_FILE, Manifest
from model.spec import Frozen
from model.triton_config import CONFIG_FILE, described_policy, read_config, versions_loaded, versions_of

MARK_FILE = "mark.json"
"""In a version's folder: it goes where the version goes, and no other file changes with it."""


class Mark(Frozen):
    """Someone wants a version kept."""

    note: str = ""
    marked: datetime


class Version(Frozen):
    """One version folder."""

    version: int
    created: datetime | None = None
    format: str | None = None
    precision: str | None = None
    verdict: Literal["passed", "FORCED", "FAILED", "none"]
    bytes: int
    mark: Mark | None = None
    served: bool
    """The version policy of config.pbtxt has Triton load it."""
    loaded: bool | None = None
    """A server that was asked holds it; None when none was."""


class Model(Frozen):
    """A published model and its versions, oldest first."""

    name: str
    folder: Path
    policy: str
    versions: tuple[Version, ...]


def find_model(model: str, repository: Path) -> Path:
    """The folder of a model, given as such or by its name in a repository. Raises InputError when there is none."""
    for folder in (Path(model), repository / model):
        if (folder / CONFIG_FILE).is_file():
            return folder.resolve()
    there = without_encoded(path.parent.name for path in repository.glob(f"*/{CONFIG_FILE}"))
    raise InputError(f"{model}: no model of that name in {repository}; it has {', '.join(there) or 'none'}")


def model_versions(folder: Path, held: LoadedVersions | None = None) -> Model:
    """Read a model's folder. held: what servers said of it, where any was asked.

    Raises ArtifactError for a broken configuration.
    """
    config = read_config(folder)
    numbers = versions_of(folder)
    served = versions_loaded(config, numbers)
    loaded = None if held is None or not held.asked else held.by
    return Model(
        name=folder.name,
        folder=folder,
        policy=described_policy(config),
        versions=tuple(_version(folder / str(number), number in served, loaded) for number in numbers),
    )


def mark(folder: Path, version: int, note: str = "") -> None:
    """Have a version kept whatever its age. Raises InputError when there is no such version."""
    with staging(folder.parent) as aside:
        target = existing(folder, version) / MARK_FILE
        fresh = aside / MARK_FILE
        fresh.write_text(Mark(note=note, marked=datetime.now(UTC)).model_dump_json(), encoding="utf-8")
        with fresh.open("rb") as written:
            os.fsync(written.fileno())
        fresh.replace(target)


def unmark(folder: Path, version: int) -> None:
    """Take a mark away; without one, do nothing. Raises InputError when there is no such version."""
    with staging(folder.parent):
        (existing(folder, version) / MARK_FILE).unlink(missing_ok=True)


def existing(folder: Path, version: int) -> Path:
    """The folder of a version. Raises InputError when there is no such version."""
    if version not in (numbers := versions_of(folder)):
        raise InputError(f"{folder.name}: has no version {version}; it has {', '.join(map(str, numbers)) or 'none'}")
    return folder / str(version)


def read_mark(folder: Path) -> Mark | None:
    """The mark of a version folder. Raises ArtifactError for one that cannot be read: it may protect something."""
    path = folder / MARK_FILE
    try:
        return Mark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path}: is no mark that can be read ({error}); delete it, or mark again") from error


def _version(folder: Path, served: bool, held: Container[int] | None) -> Version:
    manifest, verdict = _manifest(folder), _verdict(folder)
    return Version(
        version=int(folder.name),
        created=manifest and manifest.created,
        format=verdict and verdict.format,
        precision=verdict and verdict.precision,
        verdict=_state(verdict),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        mark=read_mark(folder),
        served=served,
        loaded=None if held is None else int(folder.name) in held,
    )


def _state(verdict: Verdict | None) -> Literal["passed", "FORCED", "FAILED", "none"]:
    if verdict is None:
        return "none"
    return "FORCED" if verdict.forced else "passed" if verdict.passed else "FAILED"


def _manifest(folder: Path) -> Manifest | None:
    """None for a version that was not published by the builder, or by a newer one; `builder check` tells more."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _verdict(folder: Path) -> Verdict | None:
    try:
        return Verdict.model_validate_json((folder / VERDICT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
