"""Findings: problems of a model repository, or of the machine that will serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tritonkit.spec import Frozen

NO_BACKEND = "names no backend, and no version has a file that tells Triton the backend, such as model.onnx"


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


def no_model(folder: Path) -> Finding:
    """Warn about a folder of a repository that is no model, such as `.git`."""
    return warning(
        folder,
        "is not a model: Triton logs a message and skips it",
        "move it out of the repository",
        code="repository.not_a_model",
    )


def misread_version(folder: Path, number: int) -> Finding:
    """Report a folder such as `2_old`, whose leading digits Triton reads as a version."""
    return error(
        folder,
        f"Triton reads its name as version {number}, which has no folder",
        "move it out of the model",
        code="repository.misread_version",
    )
