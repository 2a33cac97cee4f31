"""What is found wrong in a model repository, or with the place that is to serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from model.spec import Frozen


class Finding(Frozen):
    """One thing wrong: an error makes a model fail or answer wrongly, a warning does not."""

    severity: Literal["error", "warning"]
    path: str
    problem: str
    fix: str


def error(path: Path, problem: str, fix: str) -> Finding:
    """A finding that makes a model fail or answer wrongly."""
    return Finding(severity="error", path=str(path), problem=problem, fix=fix)


def warning(path: Path, problem: str, fix: str) -> Finding:
    """A finding that does not."""
    return Finding(severity="warning", path=str(path), problem=problem, fix=fix)
