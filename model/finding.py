"""What is found wrong in a model repository, or with the place that is to serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from model.spec import Frozen

NO_BACKEND = "names no backend, and no version holds a file by which Triton would know one, such as model.onnx"


class Finding(Frozen):
    """One thing wrong: an error makes a model fail or answer wrongly, a warning does not."""

    severity: Literal["error", "warning"]
    code: str
    """Stable and dotted, such as `repository.no_version`."""
    path: str
    message: str
    fix: str


def error(path: Path, message: str, fix: str, *, code: str = "") -> Finding:
    """A finding that makes a model fail or answer wrongly."""
    return Finding(severity="error", code=code, path=str(path), message=message, fix=fix)


def warning(path: Path, message: str, fix: str, *, code: str = "") -> Finding:
    """A finding that does not."""
    return Finding(severity="warning", code=code, path=str(path), message=message, fix=fix)


def no_model(folder: Path) -> Finding:
    """A folder of a repository that is no model, such as `.git`: Triton passes over it."""
    return warning(folder, "is no model: Triton says so in its log and passes over it", "move it out of the repository")


def misread_version(folder: Path, number: int) -> Finding:
    """A folder such as `2_old`, whose leading digits Triton reads as a version."""
    return error(folder, f"Triton takes it for version {number}, which has no folder", "move it out of the model")
