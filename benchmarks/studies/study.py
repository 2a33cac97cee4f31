"""The harness of the studies and the drills: a command, its record with the machine, its checks and its exit code.

A study is a function that returns a `Result`. Its parameters are the options of the command, the docstring of its
module is the help text. Nothing but Python and tritonkit's own light parts is imported with this file.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tritonkit.errors import TritonkitError
from tritonkit.system.files import atomic_write

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Result:
    """What a study found."""

    record: Mapping[str, Any]
    """The JSON document that `--output` writes; `machine` is added."""
    checks: Mapping[str, bool] = field(default_factory=dict)
    """The expectations, by sentence. One that is not met makes the exit code 1."""
    hidden: tuple[str, ...] = ()
    """Long entries of the record that are not printed."""
    packages: tuple[str, ...] = ()
    """Packages whose versions belong to the record."""
    page: str | None = None
    """The Markdown page that `--output` writes instead of the record."""


def command(study: Callable[..., Result]) -> Callable[[], None]:
    """Return the command of a study: it runs it, prints and writes the record, and exits with 1 for an unmet check."""
    import typer  # not on every machine that `gpu_check` runs on

    from tritonkit.system.console import application, print_json, reports_errors

    output_option = Annotated[Path | None, typer.Option(help="Write the record, or the page of a table, to this file.")]

    def run(output: Path | None, **options: Any) -> None:
        result = study(**options)
        record = {**result.record, "machine": {**machine(result.packages), **result.record.get("machine", {})}}
        print_json({key: value for key, value in record.items() if key not in result.hidden})
        if output:
            _write(output, json.dumps(record, indent=2) + "\n" if result.page is None else result.page)
        if not report_checks(result.checks):
            raise typer.Exit(1)

    signature = inspect.signature(study, eval_str=True)
    option = inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=output_option)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = application("")
    app.command(help=sys.modules[study.__module__].__doc__)(reports_errors(run))
    return partial(app, prog_name=f"python -m {sys.modules[study.__module__].__spec__.name}")  # type: ignore[union-attr]


def report_checks(checks: Mapping[str, bool]) -> bool:
    """Print a line for each expectation, and return whether all are met."""
    for sentence, is_met in checks.items():
        print("ok  " if is_met else "FAIL", sentence, flush=True)
    return all(checks.values())


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return CPU, cores, memory, load, Python and the versions of packages."""
    from importlib.metadata import version

    from benchmarks.environment import read_environment

    kept = {"cpu", "cores", "memory_gib", "python", "load_average"}
    return {**read_environment(triton="").model_dump(include=kept), **{name: version(name) for name in packages}}


def write_json(path: Path, document: Any) -> None:
    """Write the results of many models, which grow while a study runs. Atomic."""
    _write(path, json.dumps(document, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def markdown_row(cells: Iterable[object]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def in_turns(methods: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Run each method once in each round and print what it returns; the order alternates."""
    results: dict[str, list[Measured]] = {name: [] for name in methods}
    for number in range(rounds):
        for name in list(methods)[:: 1 if number % 2 else -1]:
            results[name].append(methods[name]())
            print(f"{name}: {results[name][-1]}", flush=True)
    return results


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each method."""
    return {name: statistics.median(numbers) for name, numbers in values.items()}


def for_each_model(
    names: Iterable[str], check: Callable[[str, Path], Measured], doing: str
) -> Iterator[tuple[str, Measured]]:
    """Check models one after another, each with an empty folder: the files of all are some gigabytes."""
    from rich.progress import track

    for name in track(list(names), doing):
        with tempfile.TemporaryDirectory() as folder:
            yield name, check(name, Path(folder))


@dataclass(frozen=True)
class ProcessCost:
    """What a process and its children took, from start to end, with imports."""

    seconds: float
    cpu_seconds: float
    """Of the process and of the children that it waited for."""
    peak_mib: float
    """The sum of the peak resident sizes."""
    load_average: float
    """Load average of the machine over the minute before the start."""


def run_process(
    arguments: Sequence[object],
    sample_s: float | None = None,
    while_running: Callable[[], None] = lambda: None,
) -> tuple[ProcessCost, str]:
    """Run a command; return its cost and its stdout. Raises TritonkitError with its stderr if it fails.

    sample_s: how often the memory is read and `while_running` is called; None leaves the machine to the command.
    """
    load, peak_kib, is_running = round(os.getloadavg()[0], 2), 0, True
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen([*map(str, arguments)], stdout=stdout, stderr=stderr)
        try:
            while is_running:
                try:
                    process.wait(sample_s)
                    is_running = False
                except subprocess.TimeoutExpired:
                    with suppress(OSError):  # a process ended
                        peak_kib = max(peak_kib, sum(map(_high_water_kib, _family(process.pid))))
                    while_running()
        finally:
            process.kill()
            process.wait()
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            words = " ".join(map(str, arguments[:3]))
            error_text = stderr.read().decode(errors="replace")[-2000:]
            raise TritonkitError(f"{words} failed:\n{error_text}", code="drill.command_failed")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return ProcessCost(round(seconds, 3), round(cpu_s, 3), round(peak_kib / 1024, 1), load), stdout.read().decode()


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all its children. Reads little, so that the measured process keeps the cores."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text(encoding="utf-8").split():
            yield from _family(int(child))


def _high_water_kib(pid: int) -> int:
    """Return the peak memory of a process as the kernel counts it, so samples miss only children that live shortly."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return int(found[1]) if found else 0  # an ended process has no memory
