"""Our Python files and the modules they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.programs import ROOT

PACKAGES = ("tritonkit", "train", "builder", "server", "client", "benchmarks", "scripts")


def sources(*packages: str) -> Iterator[Path]:
    """Python files of the packages, or of all of ours."""
    for package in packages or PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
