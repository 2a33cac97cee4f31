"""Findings: problems of a model repository, or of the machine that will serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tritonkit.spec import Frozen


class Finding(Frozen):
    """One problem. An error makes a model fail or answer wrongly, a warning does not."""

    severity: Literal["error", "warning"]
    code: str
    """Stable and dotted, such as `repository.no_version`."""
    path: str
    message: str
    fix: str


def error(path: Path, message: str, fix: str, *, code: str) -> Finding:
    """Create a finding that makes a model fail or answer wrongly."""
    return Finding(severity="error", code=code, path=str(path), message=message, fix=fix)


def warning(path: Path, message: str, fix: str, *, code: str) -> Finding:
    """Create a finding that does not make a model fail or answer wrongly."""
    return Finding(severity="warning", code=code, path=str(path), message=message, fix=fix)
