"""Copies the pip runtime into the folder layout of NVIDIA's image: bin, backends, caches. Run by the Dockerfile."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from server.runtimes.pip_environment import find_pip_environment


def lay_out(folder: Path) -> None:
    """Fill `folder`, the default folder of `tritonserver`: /opt/tritonserver."""
    environment = find_pip_environment()
    folder.mkdir()
    environment.copy_backends(folder / "backends")
    shutil.copytree(environment.caches, folder / "caches")
    (folder / "bin").mkdir()
    (folder / "bin" / "tritonserver").symlink_to(environment.binary)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
