"""The option `--limit NAME=NUMBER`."""

from __future__ import annotations

import subprocess
import sys


def test_limits_load_no_torch() -> None:
    code = "import sys, tritonkit.export_options; assert not {'torch', 'onnxruntime'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
