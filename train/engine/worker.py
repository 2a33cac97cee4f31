"""One of several processes of a training: started as `python -m train.engine.worker RUN`, or by torchrun."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from train.config.loading import Config
from train.config.sections import DataConfig
from train.data.remote_images import fetch_missing_images
from train.distributed.processes import Processes
from train.engine.failures import translate_failures
from train.engine.fit import train_here
from train.engine.plan import TrainingPlan, plan_run
from train.engine.progress import quiet_lightning
from train.engine.run_folder import RunFolder
from train.engine.state_files import read_state, restore_channels
from tritonkit.errors import TritonkitError
from tritonkit.system.console import TRACEBACK_VARIABLE, exit_code, warn


def join_fit(read_config: Callable[[], Config], processes: Processes) -> None:
    """Take part in a `fit` of torchrun's processes. The first has created the run folder; Lightning tells its path."""

    def prepare() -> tuple[TrainingPlan, RunFolder]:
        config = read_config()
        return plan_run(config), RunFolder(config.output / config.name)

    _join(prepare, processes)


def join_resume(folder: Path, processes: Processes) -> None:
    """Take part in a `resume` of torchrun's processes."""
    _join(lambda: _prepare(folder), processes)


def _prepare(folder: Path) -> tuple[TrainingPlan, RunFolder]:
    run = RunFolder.open_unfinished(folder)
    config, is_resumed = run.load_config(), run.last_state.is_file()
    fetch_missing_images(run.splits, config)  # each host has a cache of its own
    plan = plan_run(config, DataConfig(path=run.splits, test_ratio=0), is_resumed=is_resumed)
    if is_resumed:
        restore_channels(plan.network, read_state(run.last_state))
    return plan, run


def _join(prepare: Callable[[], tuple[TrainingPlan, RunFolder]], processes: Processes) -> None:
    try:
        with quiet_lightning():
            with _quiet_unless_first(processes):
                plan, run = prepare()
            with translate_failures(None, plan.config):  # the first process tells how to resume
                train_here(plan, run)
    except TritonkitError as error:
        warn(f"error: process {processes.rank} of {processes.count}: {error}")
        raise SystemExit(exit_code(error)) from error


@contextmanager
def _quiet_unless_first(processes: Processes) -> Iterator[None]:
    """Hide the output of all processes of a host but the first. An error ends them with its exit code alone."""
    if processes.local_rank == 0:
        yield
        return
    try:
        with redirect_stderr(StringIO()):
            yield
    except TritonkitError as error:
        raise SystemExit(exit_code(error)) from error


def main(folder: Path) -> int:
    """Train, and reply with a pickled exception where that fails. The process that started this one prints it."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with quiet_lightning():
            with redirect_stderr(StringIO()):  # already printed
                plan, run = _prepare(folder)
            train_here(plan, run)
    except BaseException as error:  # noqa: BLE001 - the other process handles it
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        replies.write(_pickled(error))
        replies.flush()
        return 1
    return 0


def _pickled(error: BaseException) -> bytes:
    try:
        reply = pickle.dumps(error)
        pickle.loads(reply)  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - exceptions with arguments of their own cannot be read back
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return reply


def _end_with_parent() -> None:
    """Wait until the parent, which has the other end of stdin's pipe, has ended; then end at once."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
