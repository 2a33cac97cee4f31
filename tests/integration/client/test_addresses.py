"""Remote pictures: over HTTP from a real server, and in stores through fsspec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("library", ["fsspec", "s3fs"])
def test_missing_library_is_one_error_with_the_command_that_installs_it(library: str) -> None:
    imports = f"import sys; sys.modules[{library!r}] = None; from client.sources import find_pictures"
    code = f"{imports}; find_pictures(['s3://b/a.png'])"
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "InputError" in completed.stderr.splitlines()[-2]
    assert "pip install 'tritonkit[remote]'" in completed.stderr.splitlines()[-1]
