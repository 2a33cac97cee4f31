"""Export when training ends, by the builder's own command: stages meet in files, not in calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import ConfigError, OutsideError, RefusedError
from model.files import check_can_write
from model.plugins import VARIABLE
from train.sections import ExportConfig


def check_can_export(how: ExportConfig) -> None:
    """Find out before the training whether its end can come. Raises InputError."""
    builder_command()
    check_can_write(how.repository / "config.pbtxt")


def builder_command() -> Path:
    """The `builder` command of this installation. Raises ConfigError without one."""
    beside = Path(sys.executable).with_name("builder")
    found = str(beside) if beside.is_file() else shutil.which("builder")
    if found is None:
        raise ConfigError("export: there is no `builder` command; install it with: pip install 'tritonkit[builder]'")
    return Path(found)


def export_checkpoint(checkpoint: Path, how: ExportConfig, plugins: Sequence[str] = ()) -> Path:
    """Run `builder export` on a checkpoint, with the training's plugins; returns the published artifact.

    Raises RefusedError when the verdict failed, OutsideError when the command did not work.
    """
    command = [builder_command(), "export", checkpoint, "--onnx", how.onnx, "--repository", how.repository, "--json"]
    if how.max_batch is not None:
        command += ["--max-batch", str(how.max_batch)]
    words = [str(word) for word in command]
    named = [*filter(None, [os.environ.get(VARIABLE)]), *plugins]
    environment = {**os.environ, VARIABLE: ",".join(named)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own command
    again = f"export it again with: builder export {checkpoint}"
    if done.returncode == 1:
        raise RefusedError(f"{checkpoint}: trained, but its export was refused (see above); {again}")
    if done.returncode != 0:
        raise OutsideError(f"{checkpoint}: trained, but `builder export` ended with {done.returncode}; {again}")
    return Path(json.loads(done.stdout)["artifact"])
