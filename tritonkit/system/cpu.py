"""The CPU's int8 arithmetic: int8 outputs differ between CPUs with and without VNNI instructions."""

from __future__ import annotations

import re
from pathlib import Path

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
