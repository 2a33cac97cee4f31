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
"""Where a tool's modules have other names than its package; the first that is there counts."""


def installed(tools: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """By tool: the versions found, and for what is missing the reason. Imports each: what is broken counts as missing.

    tools: names of packages, such as `torch` or `tensorrt-rtx`.
    """
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for tool in tools:
        module = module_of(tool)
        if module is None:
            missing[tool] = "not installed"
            continue
        try:
            found[tool] = str(importlib.import_module(module).__version__)
        except Exception as problem:  # noqa: BLE001 - compiled modules fail in their own ways
            missing[tool] = f"cannot be imported: {(str(problem) or type(problem).__name__).splitlines()[0]}"
    return found, missing


def module_of(tool: str) -> str | None:
    """The name of the tool's module that is here, None where it is not installed."""
    return next((name for name in _MODULES.get(tool, (tool,)) if importlib.util.find_spec(name) is not None), None)
