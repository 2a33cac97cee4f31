"""The result of a publication."""

from __future__ import annotations

from pathlib import Path

from builder.repository.retention import Retention
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import Frozen


class PublishedVersion(Frozen):
    """A version that was published."""

    model: str
    version: int
    artifact: Path
    source: str
    verdict: Verdict
    models: tuple[str, ...]
    """The model, and those that take encoded images for it."""
    served: bool = True
    """Triton loads the version, by the version policy of config.pbtxt."""
    retention: Retention | None = None
    warnings: tuple[str, ...] = ()
    """Problems that the verdict does not cover."""
    instead: str | None = None
    """Why the precision is not the requested one; None where it is."""
