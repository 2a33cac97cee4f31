"""The cache of TensorRT's kernel timings, kept between builds."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tritonkit.runtimes.tensorrt_plan import Flavour


def timing_cache_path(flavour: Flavour, version: str, gpu: str) -> Path:
    """The path of the timing cache for one TensorRT version and one GPU model."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{flavour}-{version}-{gpu}")
    return Path(base) / "tritonkit" / "timing" / f"{name}.cache"
