"""Kill a writer of answers before each of its file-system steps, resume the job, and compare the files.

    python -m tests.integration.client.killed_writer FOLDER SUFFIX...

It does this with a new job, and with a job that adds rows to a finished one. For each it prints a JSON object: the
number of steps, and for each step after which the files differ from an undisturbed writer's, the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.infer import Row
from client.outputs.job import JobSettings, open_job
from tritonkit.errors import TritonkitError
from tritonkit.tasks import Answer

SETTINGS = JobSettings(model="m", version="1", spec="0" * 64, top=1)
STEPS = {"os.rename", "os.remove", "os.truncate"}
OLD, NEW, BROKEN = ("a", "b", "c"), ("d", "e"), "b"


def row(name: str) -> Row:
    if name == BROKEN:
        return Row(name, error="not a picture")
    vector = np.full(4, ord(name), np.float32)
    return Row(name, Answer({"embedding": vector.tolist()}, embedding=vector))


def write(folder: Path, suffixes: Sequence[str], names: Sequence[str]) -> None:
    """Write rows as `client infer` does."""
    outputs = [folder / f"out{suffix}" for suffix in suffixes]
    settings = SETTINGS.model_copy(update={"outputs": tuple(path.name for path in outputs)})
    example = Answer({"embedding": [1.0] * 4}, embedding=np.ones(4, np.float32))
    with open_job(outputs, settings, example, lambda message: None) as job:
        for name in names:
            if not job.has_row(name):
                job.write(row(name))


def run_in_process(work: Callable[[], None], folder: Path, kill_at: int = -1) -> int:
    """Run `work` in a child process, which gets SIGKILL before its step `kill_at`; return the number of its steps."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        code, steps_done = 1, 0

        def step(event: str, details: tuple[Any, ...]) -> None:
            nonlocal steps_done
            if is_step(event, details, folder):
                if steps_done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps_done += 1

        sys.addaudithook(step)
        try:
            work()
            os.write(writing, str(steps_done).encode())
            code = 0
        except (TritonkitError, OSError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        steps = pipe.read()
    if kill_at >= 0 and os.WIFSIGNALED(status):
        return kill_at
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError("the writer ended with an error")
    return int(steps)


def is_step(event: str, details: tuple[Any, ...], folder: Path) -> bool:
    """Whether an event of Python's audit hooks changes a file below the folder, by descriptor or by name."""
    if event == "open":
        return str(details[0]).startswith(str(folder)) and bool(details[2] & (os.O_WRONLY | os.O_RDWR))
    return event in STEPS and (isinstance(details[0], int) or str(details[0]).startswith(str(folder)))


def files(folder: Path) -> dict[str, bytes]:
    """The output files; the bytes of a job's own file depend on its history."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".job"}


def main(folder: Path, suffixes: Sequence[str]) -> None:
    reports = {"new": kill_at_each_step(folder, suffixes, ()), "extended": kill_at_each_step(folder, suffixes, OLD)}
    print(json.dumps(reports))


def kill_at_each_step(folder: Path, suffixes: Sequence[str], finished: Sequence[str]) -> dict[str, Any]:
    """Kill a job at each step; it extends a job with the names `finished`, or is new if there are none."""

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if finished:
            write(folder, suffixes, finished)

    def work() -> None:
        write(folder, suffixes, (*OLD, *NEW))

    prepare()
    steps = run_in_process(work, folder)
    undisturbed = files(folder)
    mismatches: dict[int, str] = {}
    for at in range(steps):
        prepare()
        run_in_process(work, folder, at)
        try:
            run_in_process(work, folder)
        except RuntimeError as error:
            mismatches[at] = str(error)
            continue
        if (found := files(folder)) != undisturbed:
            changed_names = sorted(
                name for name in found.keys() | undisturbed if found.get(name) != undisturbed.get(name)
            )
            mismatches[at] = f"other files: {', '.join(changed_names)}"
    return {"steps": steps, "wrong": mismatches}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
