"""How a CPU adds products of eight-bit numbers: by that, int8 answers differ from one machine to another."""

from __future__ import annotations

import re
from pathlib import Path

from model.finding import Finding, warning

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = {"avx512_vnni", "avx_vnni"}
"""The flags of x86 CPUs with instructions that add such products in 32 bits. AMX never comes without the first."""


def adds_int8_exactly(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether sums of int8 products keep all their bits; None where the system does not tell, as other than Linux.

    An x86 CPU without VNNI adds pairs of unsigned and signed products in 16 bits, which cuts off what is larger. ARM
    has no such instruction. Source: onnxruntime.quantization.quantize_static, "Choosing parameters for CPU inference".
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
    """A warning where an int8 artifact was proven on a CPU of one kind and this one is of the other.

    proven_exactly, here: what `adds_int8_exactly` said where it was proven, and where it is served.
    """
    if verified_exactly is None or serves_exactly is None or verified_exactly == serves_exactly:
        return []
    kinds = {True: "adds int8 products exactly", False: "cuts sums of int8 products off at 16 bits (x86 without VNNI)"}
    return [
        warning(
            artifact,
            f"int8, proven on a CPU that {kinds[verified_exactly]}; this one {kinds[serves_exactly]}: answers may differ from "
            "those that were proven",
            f"on this machine: builder verify {artifact} --against CHECKPOINT; where that fails, export it here",
        )
    ]
