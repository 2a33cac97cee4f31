"""Export after the training, by running the `builder` command: stages share files, not calls."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tritonkit.errors import CheckFailedError, ConfigError, ExternalError, InputError, Problem
from tritonkit.export_options import ExportOptions
from tritonkit.options import arguments_of
from tritonkit.plugins import VARIABLE
from tritonkit.remotes import local_path
from tritonkit.runtimes.formats import OPENVINO, Target
from tritonkit.runtimes.tensorrt_plan import find_tensorrt
from tritonkit.system.commands import find_command
from tritonkit.system.console import warn
from tritonkit.system.files import atomic_write, check_can_write

SERVED_FOLDER = "served"
"""Subfolder of the run folder: a record of the export, and copies of its verdict and config.pbtxt."""
PUBLISHED_FILE, CONFIG_FILE = "published.json", "config.pbtxt"
_PLAN_HINT = (
    "Either build in the container that will serve the plan, if Docker has a GPU: `in_container: true`; or build for "
    "RTX machines, which needs no GPU: `rtx`"
)


def check_can_export(export: ExportOptions) -> None:
    """Check before the training that the export can run. Raises ConfigError that lists what is missing."""
    problems: list[Problem] = []
    checks: list[Callable[[], object]] = [
        builder_command,
        lambda: check_can_write(export.repository / CONFIG_FILE),
        lambda: _check_libraries(export),
        lambda: _check_config(export.config),
    ]
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(Problem(error.code, f"export: {str(error).removeprefix('export: ')}"))
    if problems:
        raise ConfigError("\n".join(map(str, problems)), code="export.not_possible", problems=problems)


def builder_command() -> Path:
    """Find the `builder` command of this installation. Raises ConfigError if it is missing."""
    command = find_command("builder")
    if command is None:
        raise ConfigError(
            "export: there is no `builder` command; install it with: pip install 'tritonkit[builder]'",
            code="export.no_builder",
        )
    return Path(command)


def environment_with(plugins: Sequence[str]) -> dict[str, str]:
    """Return the environment of a command that imports the training's plugins."""
    modules = [*filter(None, [os.environ.get(VARIABLE)]), *plugins]
    return {**os.environ, VARIABLE: ",".join(modules)}


def export_checkpoint(checkpoint: Path, export: ExportOptions, plugins: Sequence[str] = ()) -> Path:
    """Run `builder export` on a checkpoint, with the training's plugins; return the published artifact.

    Writes a record of the export and copies of its verdict and config.pbtxt next to the checkpoint. Raises
    CheckFailedError if the verdict failed, ConfigError if the builder rejected the options, and ExternalError if the
    command failed otherwise.
    """
    command = ["builder", "export", str(checkpoint), *arguments_of(export)]
    process = subprocess.run(  # noqa: S603 - our own command
        [str(builder_command()), *command[1:], "--json"],
        env=environment_with(plugins),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    retry = f"export again with: {shlex.join(command)}"
    if process.returncode == 1:
        raise CheckFailedError(
            f"{checkpoint}: trained, but the export failed its verification (see above); {retry}",
            code="export.verdict_failed",
        )
    if process.returncode == 2:
        raise ConfigError(
            f"{checkpoint}: trained, but cannot be exported with these options (see above); {retry}",
            code="export.options",
        )
    if process.returncode != 0:
        raise ExternalError(
            f"{checkpoint}: trained, but `builder export` ended with exit code {process.returncode} (see above); "
            f"{retry}",
            code="export.failed",
        )
    published = json.loads(process.stdout)
    _record(published, command, checkpoint.parent / SERVED_FOLDER)
    return Path(published["artifact"])


def _check_libraries(export: ExportOptions) -> None:
    """Raise InputError if a library that the format needs is missing here."""
    record = export.target.record
    if record.flavour is not None and not export.in_container:
        find_tensorrt(record.flavour, _PLAN_HINT)
    extras = {"docker": "container"} if export.in_container else {}
    if record is OPENVINO:
        extras[record.library] = record.extra
    for module, extra in extras.items():
        if find_spec(module) is None:
            raise ConfigError(
                f"needs the Python module {module}; install it with: pip install 'tritonkit[{extra}]'",
                code="export.missing_module",
            )
    if export.target == Target(format=OPENVINO.name, precision="bf16"):
        from tritonkit.runtimes.openvino import has_bf16

        if not has_bf16():
            raise ConfigError(
                "openvino: bf16: this CPU does not support it (no avx512_bf16 or amx_bf16); use fp32 or int8",
                code="export.no_bf16",
            )


def _check_config(path: Path | str | None) -> None:
    if path is not None and not local_path(path).is_file():
        raise ConfigError(f"config: {path}: no such file; expected a config.pbtxt", code="export.config_not_found")


def _record(published: dict[str, Any], command: Sequence[str], folder: Path) -> None:
    """Write the export's record, its verdict and config.pbtxt into the run folder, and show the export's warnings."""
    artifact = Path(published["artifact"])
    config = artifact.parents[1] / CONFIG_FILE
    for verdict in artifact.parent.glob("verdict.*"):  # JSON and a page
        with atomic_write(folder / verdict.name) as temporary:
            shutil.copyfile(verdict, temporary)
    for name, text in (
        (PUBLISHED_FILE, json.dumps({"command": shlex.join(command), **published}, indent=2)),
        (CONFIG_FILE, config.read_text(encoding="utf-8")),
    ):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for sentence in filter(None, [*published.get("warnings", ()), published.get("instead")]):
        warn(f"export: {sentence}")
