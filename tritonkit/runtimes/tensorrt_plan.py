"""The header of TensorRT plans, and the import of the TensorRT library.

TensorRT has no documented way to read the version of a plan. The header format was found from plans of many versions:
four letters, the length of the file as u64 at byte 16, and the version of the builder in bytes 24 to 27.
"""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from types import ModuleType
from typing import Literal

from tritonkit.errors import ArtifactError
from tritonkit.spec import Frozen
from tritonkit.system.gpu import find_gpu

Flavour = Literal["tensorrt", "rtx"]
"""TensorRT, whose plans Triton serves, or TensorRT for RTX, whose engines run on RTX machines."""

TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
OLDEST = (10, 13)
"""The oldest TensorRT that can build: strongly typed networks support all features since 10.12."""
ALTERNATIVES = (
    "Build in the container that will serve the plan, if Docker has a GPU: --in-container. "
    "Or build for RTX machines, which needs no GPU: --rtx"
)
BUILD_FILE = "build.json"
"""The build record, next to the plan."""
TRUST_VARIABLE = "TRITONKIT_TRUST_PLANS"
"""Set to 1, it allows files that contain code to run it: version-compatible plans, TorchScript without a manifest."""
_MAGICS: dict[bytes, Flavour] = {b"ftrt": "tensorrt", b"ptrt": "tensorrt", b"vtrt": "rtx"}
_HEADER = struct.Struct("<4s12xQ4B")
_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class PlanHeader(Frozen):
    """The content of the first 28 bytes of a plan."""

    flavour: Flavour
    magic: str
    bytes: int
    """Length of the whole plan."""
    version: str
    """Version of the TensorRT that built it: major.minor.patch.build."""


def plan_header(path: Path) -> PlanHeader:
    """Read the header of a plan. Raises ArtifactError for another file, or a truncated plan."""
    try:
        with path.open("rb") as plan:
            start = plan.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", code="tensorrt.unreadable") from error
    if start[:4] not in _MAGICS:
        raise ArtifactError(f"{path}: {_not_a_plan_message(start, size)}", code="tensorrt.not_a_plan")
    if len(start) < _HEADER.size:
        raise ArtifactError(
            f"{path}: is cut short: {size} bytes, a plan's header alone has {_HEADER.size}", code="tensorrt.truncated"
        )
    magic, length, *version = _HEADER.unpack(start)
    if length > size:
        raise ArtifactError(
            f"{path}: is cut short: its header says {length} bytes, the file has {size}; copy it again",
            code="tensorrt.truncated",
        )
    return PlanHeader(flavour=_MAGICS[magic], magic=magic.decode(), bytes=length, version=".".join(map(str, version)))


def _not_a_plan_message(start: bytes, size: int) -> str:
    if not start:
        return "is empty, not a TensorRT plan"
    prefix = int.from_bytes(start[:4], "little")
    if start[4:5] == b"{" and prefix < size:
        return (
            f"is an engine with {prefix} bytes of JSON before it, as Ultralytics writes them; Triton does not load it. "
            f"The plan begins at byte {prefix + 4}: tail -c +{prefix + 5} FILE > model.plan"
        )
    return f"is not a TensorRT plan: it begins with {start[:4]!r}, expected {', '.join(m.decode() for m in _MAGICS)}"


def find_tensorrt(flavour: Flavour, alternatives: str = ALTERNATIVES) -> ModuleType:
    """Import the library that builds and runs plans of a flavour.

    alternatives: what to do without TensorRT, for the error message. Raises ArtifactError that names what is missing:
    the library, a GPU or both. Only a build with `--rtx` needs no GPU.
    """
    library, reason = None, ""
    for name in _MODULES[flavour]:
        try:
            library = importlib.import_module(name)
            break
        except ImportError as error:  # also for a missing shared library
            reason = f"{error.name or name}: {str(error).splitlines()[0]}"
    missing = [] if library is not None else [f"the library ({reason})"]
    if flavour == "tensorrt" and find_gpu() is None:
        missing.append("an NVIDIA GPU with its driver")
    if library is None or missing:
        fix = alternatives if flavour == "tensorrt" else "Install it: pip install 'tritonkit[rtx]'"
        raise ArtifactError(
            f"{TITLES[flavour]} cannot be used here: missing {' and '.join(missing)}. {fix}", code="tensorrt.missing"
        )
    if flavour == "tensorrt" and version_numbers(library.__version__) < OLDEST:
        raise ArtifactError(
            f"TensorRT {library.__version__} is too old: expected {OLDEST[0]}.{OLDEST[1]} or newer. {alternatives}",
            code="tensorrt.too_old",
        )
    return library


def version_numbers(version: str) -> tuple[int, ...]:
    """Parse a version for comparison, without a suffix: `10.13.3.9.post1` becomes (10, 13, 3, 9)."""
    parts: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    return tuple(parts)


def same_release(first: str, second: str) -> bool:
    """Whether two versions have the same major, minor and patch, as far as both contain them."""
    return all(a == b for a, b in zip(version_numbers(first)[:3], version_numbers(second)[:3], strict=False))
