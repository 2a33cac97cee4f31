"""TensorRT plans from outside: what their first bytes say, and the library that can read them.

There is no documented way to ask a plan its version. Its header was read off plans of many versions: a magic of four
letters, the length of the whole as u64 at byte 16, and the version of the builder in bytes 24 to 27.
"""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from model.errors import ArtifactError
from model.gpu import find_gpu
from model.spec import Frozen

Flavour = Literal["tensorrt", "rtx"]
"""TensorRT, whose plans Triton serves, or TensorRT for RTX, whose engines run on RTX machines."""

TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
OLDEST = (10, 13)
"""The oldest TensorRT that builds here: strong typing took all its features with 10.12."""
WAYS_OUT = (
    "Either build in the container that will serve it, where Docker has a GPU: --in-container; "
    "or build for RTX machines, which needs no GPU: --rtx"
)
BUILD_FILE = "build.json"
"""The record of the build, beside the plan."""
_MAGICS: dict[bytes, Flavour] = {b"ftrt": "tensorrt", b"ptrt": "tensorrt", b"vtrt": "rtx"}
_HEADER = struct.Struct("<4s12xQ4B")
_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class PlanHeader(Frozen):
    """What the first 28 bytes of a plan say."""

    flavour: Flavour
    magic: str
    bytes: int
    """Of the whole plan."""
    version: str
    """Of the TensorRT that built it: major.minor.patch.build."""


def plan_header(path: Path) -> PlanHeader:
    """Read a plan's header. Raises ArtifactError with the reason for a file that is none, or is cut short."""
    try:
        with path.open("rb") as plan:
            start = plan.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    if start[:4] not in _MAGICS:
        raise ArtifactError(f"{path}: {_not_a_plan_message(start, size)}")
    if len(start) < _HEADER.size:
        raise ArtifactError(f"{path}: is cut short: {size} bytes, a plan's header alone has {_HEADER.size}")
    magic, length, *version = _HEADER.unpack(start)
    if length > size:
        raise ArtifactError(f"{path}: is cut short: its header says {length} bytes, the file has {size}; copy it again")
    return PlanHeader(flavour=_MAGICS[magic], magic=magic.decode(), bytes=length, version=".".join(map(str, version)))


def _not_a_plan_message(start: bytes, size: int) -> str:
    if not start:
        return "is empty, no TensorRT plan"
    prefix = int.from_bytes(start[:4], "little")
    if start[4:5] == b"{" and prefix < size:
        return (
            f"is an engine with {prefix} bytes of JSON before it, as Ultralytics writes them; Triton does not load it. "
            f"The plan begins at byte {prefix + 4}: tail -c +{prefix + 5} FILE > model.plan"
        )
    return f"is no TensorRT plan: it begins with {start[:4]!r}, expected {', '.join(m.decode() for m in _MAGICS)}"


def find_tensorrt(flavour: Flavour, ways: str = WAYS_OUT) -> ModuleType:
    """The library that builds and runs plans of a flavour. ways: what else there is to do without TensorRT.

    Raises ArtifactError that says what is missing, the library, a GPU or both, and the ways that work without.
    `--rtx` alone needs no GPU, to build.
    """
    found, why = _import_tensorrt(flavour)
    missing = [] if found is not None else [f"the library ({why})"]
    if flavour == "tensorrt" and find_gpu() is None:
        missing.append("an NVIDIA GPU with its driver")
    if found is None or missing:
        out = ways if flavour == "tensorrt" else "Install it: pip install 'tritonkit[rtx]'"
        raise ArtifactError(f"{TITLES[flavour]} cannot be used here: missing {' and '.join(missing)}. {out}")
    if flavour == "tensorrt" and numbers(found.__version__) < OLDEST:
        raise ArtifactError(
            f"TensorRT {found.__version__} is too old: expected {OLDEST[0]}.{OLDEST[1]} or newer. {ways}"
        )
    return found


def _import_tensorrt(flavour: Flavour) -> tuple[ModuleType | None, str]:
    reasons: list[str] = []
    for name in _MODULES[flavour]:
        try:
            return importlib.import_module(name), ""
        except ImportError as error:  # also where a shared library of it is missing
            reasons.append(f"{error.name or name}: {str(error).splitlines()[0]}")
    return None, reasons[-1]


def logger_for(trt: ModuleType, logged: list[str]) -> Any:
    """A logger of the library that keeps what goes wrong in `logged`, where it would write to stderr."""

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined] # the base comes with the library
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                logged.append(message)

    return Kept()


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version for comparing, without what comes after them: `10.13.3.9.post1` is (10, 13, 3, 9)."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


def same_release(one: str, other: str) -> bool:
    """Are two versions the same in major, minor and patch, as far as both say them?"""
    return all(a == b for a, b in zip(numbers(one)[:3], numbers(other)[:3], strict=False))
