"""Export when training ends, by the builder's own command: stages meet in files, not in calls."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.console import warn
from model.errors import CheckFailedError, ConfigError, ExternalError, InputError
from model.files import atomic_write, check_can_write
from model.plans import find_tensorrt
from model.plugins import VARIABLE
from train.sections import ExportConfig

SERVED_FOLDER = "served"
"""In the run folder: what was published of it, and the configuration that it is served by."""
PUBLISHED_FILE, CONFIG_FILE = "published.json", "config.pbtxt"
_WAYS_TO_A_PLAN = (
    "Either build in the container that will serve it, where Docker has a GPU: `in_container: true`; or build for RTX "
    "machines, which needs no GPU: `rtx`"
)


def check_can_export(how: ExportConfig) -> None:
    """Find out before the training whether its end can come. Raises ConfigError that lists what is missing."""
    problems = []
    checks: list[Callable[[], object]] = [
        builder_command,
        lambda: check_can_write(how.repository / CONFIG_FILE),
        lambda: _check_libraries(how),
        lambda: _check_config(how.config),
    ]
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(f"export: {str(error).removeprefix('export: ')}")
    if problems:
        raise ConfigError("\n".join(problems))


def builder_command() -> Path:
    """The `builder` command of this installation. Raises ConfigError without one."""
    beside = Path(sys.executable).with_name("builder")
    found = str(beside) if beside.is_file() else shutil.which("builder")
    if found is None:
        raise ConfigError("export: there is no `builder` command; install it with: pip install 'tritonkit[builder]'")
    return Path(found)


def export_checkpoint(checkpoint: Path, how: ExportConfig, plugins: Sequence[str] = ()) -> Path:
    """Run `builder export` on a checkpoint, with the training's plugins; returns the published artifact.

    What was published is noted in the checkpoint's folder, with the configuration that it is served by.
    Raises CheckFailedError when the verdict failed, ConfigError when the builder refused the options, and ExternalError
    when the command did not work.
    """
    words = ["builder", "export", str(checkpoint), *_options(how)]
    named = [*filter(None, [os.environ.get(VARIABLE)]), *plugins]
    environment = {**os.environ, VARIABLE: ",".join(named)}
    done = subprocess.run(  # noqa: S603 - our own command
        [str(builder_command()), *words[1:], "--json"], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    again = f"export it again with: {shlex.join(words)}"
    if done.returncode == 1:
        raise CheckFailedError(f"{checkpoint}: trained, but its export was refused (see above); {again}")
    if done.returncode == 2:
        raise ConfigError(f"{checkpoint}: trained, but cannot be exported so (see above); {again}")
    if done.returncode != 0:
        raise ExternalError(
            f"{checkpoint}: trained, but `builder export` ended with {done.returncode}, see above; {again}"
        )
    published = json.loads(done.stdout)
    _note(published, words, checkpoint.parent / SERVED_FOLDER)
    return Path(published["artifact"])


def _options(how: ExportConfig) -> Iterator[str]:
    """The section as words of the command line."""
    precision = getattr(how, how.format)
    yield f"--{how.format}"
    if how.format != "torchscript":
        yield precision or "fp32"
    yield from ("--repository", str(how.repository))
    if how.strict:
        yield "--strict"
    if how.in_container:
        yield "--in-container"
    if how.dynamic_batching is not None:
        yield "--dynamic-batching" if how.dynamic_batching else "--no-dynamic-batching"
    for name in ("max_batch", "config", "kind", "instances", "keep"):
        if (value := getattr(how, name)) is not None:
            yield from (f"--{name.replace('_', '-')}", str(value))
    if how.gpus:
        yield from ("--gpus", ",".join(map(str, how.gpus)))
    for accelerator in how.accelerator:
        yield from ("--accelerator", accelerator)


def _check_libraries(how: ExportConfig) -> None:
    """Raise InputError when what the format needs is missing here."""
    if how.trt and not how.in_container:
        find_tensorrt("tensorrt", _WAYS_TO_A_PLAN)
    if how.rtx:
        find_tensorrt("rtx")
    extras = {"openvino": how.openvino is not None, "docker": how.in_container}
    for module, wanted in extras.items():
        if wanted and find_spec(module) is None:
            extra = "container" if module == "docker" else module
            raise ConfigError(f"needs the Python module {module}; install it with: pip install 'tritonkit[{extra}]'")
    if how.openvino == "bf16":
        from model.runners.openvino import has_bf16

        if not has_bf16():
            raise ConfigError("openvino: bf16: this CPU has none (avx512_bf16 or amx_bf16); take fp32 or int8")


def _check_config(path: Path | None) -> None:
    if path is not None and not path.is_file():
        raise ConfigError(f"config: {path}: no such file; expected a config.pbtxt")


def _note(published: dict[str, Any], words: Sequence[str], folder: Path) -> None:
    """Log with the run what was published, and say where it is not what was asked, or not all was proven."""
    served = Path(published["artifact"]).parents[1] / CONFIG_FILE
    for name, text in (
        (PUBLISHED_FILE, json.dumps({"command": shlex.join(words), **published}, indent=2)),
        (CONFIG_FILE, served.read_text(encoding="utf-8")),
    ):
        with atomic_write(folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    for sentence in filter(None, [*published.get("warnings", ()), published.get("instead")]):
        warn(f"export: {sentence}")
