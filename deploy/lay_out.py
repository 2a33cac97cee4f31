"""Install the pip runtime in the layout of NVIDIA's image: bin, backends and caches. Run by the Dockerfile."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from server.pip_runtime import find_pip_runtime


def lay_out(folder: Path) -> None:
    """Fill `folder`, the default folder of `tritonserver`: /opt/tritonserver."""
    runtime = find_pip_runtime()
    folder.mkdir()
    runtime.lay_out_backends(folder / "backends")
    shutil.copytree(runtime.caches, folder / "caches")
    (folder / "bin").mkdir()
    (folder / "bin" / "tritonserver").symlink_to(runtime.binary)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
