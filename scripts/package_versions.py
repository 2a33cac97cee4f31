"""Find the installed versions of packages, to record what a result was produced with. Needs only Python."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable

_MODULES: dict[str, tuple[str, ...]] = {
    "pillow": ("PIL",),
    "segmentation-models-pytorch": ("segmentation_models_pytorch",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Module names of packages that differ from the package name; the first installed one is used."""


def installed_versions(tools: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return versions by package, and the reasons for missing packages. One that fails to import counts as missing.

    tools: names of packages, such as `torch` or `tensorrt-rtx`.
    """
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for tool in tools:
        module = module_name(tool)
        if module is None:
            missing[tool] = "not installed"
            continue
        try:
            versions[tool] = str(importlib.import_module(module).__version__)
        except Exception as problem:  # noqa: BLE001 - compiled modules fail in their own ways
            missing[tool] = f"cannot be imported: {(str(problem) or type(problem).__name__).splitlines()[0]}"
    return versions, missing


def module_name(tool: str) -> str | None:
    """Return the name of the installed module of a package; None if it is not installed."""
    return next((name for name in _MODULES.get(tool, (tool,)) if importlib.util.find_spec(name) is not None), None)
