"""Semantic versions (semver.org 2.0), and how a version is chosen among those of a store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import total_ordering

from tritonkit.errors import InputError

LATEST = "latest"
# The expression of https://semver.org, without build metadata: they do not order versions, and a tag of an OCI
# registry cannot hold their plus sign.
_NUMBER = r"(?:0|[1-9]\d*)"
_PRE_RELEASE = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE_RELEASE}(?:\.{_PRE_RELEASE})*))?", re.ASCII)
_CARET = re.compile(rf"\^({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?", re.ASCII)
_LONGEST = 128
"""Characters of a tag of an OCI registry."""


@total_ordering
@dataclass(frozen=True)
class SemanticVersion:
    """A version such as `1.2.0` or `2.0.0-rc.1`; a pre-release orders before its release."""

    text: str
    key: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """What orders versions."""

    def __post_init__(self) -> None:
        match = _VERSION.fullmatch(self.text) if len(self.text) <= _LONGEST else None
        if match is None:
            hint = "; leave out the build metadata after the +" if "+" in self.text else ""
            raise InputError(
                f"{self.text:.80}: is not a semantic version; expected MAJOR.MINOR.PATCH such as 1.2.0, or a "
                f"pre-release such as 1.2.0-rc.1{hint}",
                code="store.version",
            )
        *numbers, pre_release = match.groups()
        # Numbers come before words, and fewer parts before more; a release comes after its pre-releases.
        parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in (pre_release or "").split(".")]
        order = (1,) if pre_release is None else (0, tuple(parts))
        object.__setattr__(self, "key", (*map(int, numbers), order))

    def __lt__(self, other: SemanticVersion) -> bool:
        return self.key < other.key

    def __str__(self) -> str:
        return self.text

    @property
    def is_pre_release(self) -> bool:
        """Whether the version has a part such as `-rc.1`."""
        return "-" in self.text


def is_semantic_version(text: str) -> bool:
    """Whether the text is a semantic version."""
    return len(text) <= _LONGEST and _VERSION.fullmatch(text) is not None


def choose_version(versions: Iterable[str], wanted: str) -> str | None:
    """Return the version that a request means: an exact one, `latest`, or the newest of a range such as `^1.2`.

    `^1.2` is any version from 1.2.0 below 2.0.0; `^0.3` any from 0.3.0 below 0.4.0, as npm and Cargo read it.
    `latest` and ranges choose pre-releases only if no release fits. Returns None if no version fits. Raises
    InputError for a request that is none of these.
    """
    candidates = sorted(map(SemanticVersion, versions))
    if wanted != LATEST and not wanted.startswith("^"):
        exact = SemanticVersion(wanted)
        return exact.text if exact in candidates else None
    if wanted.startswith("^"):
        start, end = _caret_range(wanted)
        candidates = [version for version in candidates if start <= version < end]
    releases = [version for version in candidates if not version.is_pre_release]
    chosen = (releases or candidates)[-1:]
    return chosen[0].text if chosen else None


def _caret_range(wanted: str) -> tuple[SemanticVersion, SemanticVersion]:
    """The first version of a range, and the first beyond it."""
    match = _CARET.fullmatch(wanted)
    if match is None:
        raise InputError(
            f"{wanted:.80}: is not a range of versions; expected ^MAJOR, ^MAJOR.MINOR or ^MAJOR.MINOR.PATCH",
            code="store.version",
        )
    parts = [int(part) for part in match.groups() if part is not None]
    fixed = next((place for place, part in enumerate(parts) if part), len(parts) - 1)
    start = [*parts, 0, 0][:3]
    end = [*parts[:fixed], parts[fixed] + 1, 0, 0][:3]
    return SemanticVersion(".".join(map(str, start))), SemanticVersion(".".join(map(str, end)) + "-0")
