"""The CPU's int8 arithmetic: int8 outputs differ between CPUs with and without VNNI instructions."""

from __future__ import annotations

import re
from pathlib import Path

from model.finding import Finding, warning

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = {"avx512_vnni", "avx_vnni"}
"""Flags of x86 CPUs that add int8 products in 32 bits. A CPU with AMX always has the first."""


def adds_int8_exactly(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether sums of int8 products are exact; None if unknown, as on systems other than Linux.


    An x86 CPU without VNNI adds pairs of unsigned and signed products in 16 bits, which saturates. ARM has no such
    instruction. Source: onnxruntime.quantization.quantize_static, "Choosing parameters for CPU inference".
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if flags is not None:
        return bool(_VNNI & set(flags[1].split()))
    return True if re.search(r"^Features\s*:", text, re.MULTILINE) else None


def int8_findings(artifact: Path, verified_exactly: bool | None, serves_exactly: bool | None) -> list[Finding]:
    """Warn if an int8 artifact was verified on a CPU with other int8 arithmetic than this one.

    verified_exactly, serves_exactly: results of `adds_int8_exactly` at verification, and on this machine.
    """
    if verified_exactly is None or serves_exactly is None or verified_exactly == serves_exactly:
        return []
    names = {True: "adds int8 products exactly", False: "saturates sums at 16 bits (x86 without VNNI)"}
    return [
        warning(
            artifact,
            f"int8, verified on a CPU that {names[verified_exactly]}; this one {names[serves_exactly]}: answers may "
            "differ from the verified ones",
            f"on this machine: builder verify {artifact} --against CHECKPOINT; if that fails, export the model here",
            code="artifact.int8_cpu",
        )
    ]
