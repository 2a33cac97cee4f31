"""One run of an experiment, trained in a process of its own, so that nothing leaks from one run to the next."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import yaml

from train.config.loading import Config
from train.config.sections import MlflowTracker, TensorBoardTracker
from train.engine.run_folder import RunFolder
from train.experiments.folder import LOCAL_KEYS
from tritonkit import errors
from tritonkit.checkpoint import read_spec
from tritonkit.errors import ExternalError, Problem, TritonkitError
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

OnEpoch = Callable[[dict[str, float]], None]
_POLL_S = 0.2
_STOP_S = 20.0
"""How long a training that is stopped may take to end."""
_PR_SET_PDEATHSIG = 1


class ChildRun(Frozen):
    """A finished run of an experiment."""

    run: Path
    checkpoint: Path
    metrics: dict[str, float]
    """Of the best epoch, such as `val_accuracy`; a metric that cannot be measured is missing."""


def finished_run(config: Config, folder: Path) -> ChildRun | None:
    """Return the finished run below the folder; None if there is none."""
    run = _latest_run(config, folder)
    if run is None or not run.checkpoint("best").is_file():
        return None
    checkpoint = run.checkpoint("best")
    return ChildRun(run=run.path, checkpoint=checkpoint, metrics=read_spec(checkpoint).lineage.metrics)


def fit_in_process(config: Config, folder: Path, on_epoch: OnEpoch | None = None) -> ChildRun:
    """Train a configuration below `folder`, in a process of its own; continue or just return a run that is there.

    The run is `<folder>/<name>/<number>`, the process's output `<folder>/log.txt`, its configuration
    `<folder>/config.yaml`; the configuration's own `output` and `export` are not used. The training ends with this
    process, also if this one is killed. on_epoch: called with each row of metrics.csv, once in each call of this
    function; what it raises stops the training.

    Raises the error of the training, with its class and code.
    """
    trackers = tuple(_of_run(tracker, config.name, folder) for tracker in config.trackers)
    config = config.model_copy(update={"output": folder, "export": None, "trackers": trackers})
    run = _latest_run(config, folder)
    if run is not None and run.checkpoint("best").is_file():
        _report_epochs(run, 0, on_epoch)
    elif run is not None and run.config_file.is_file() and run.data_summary.is_file():
        stored, local = run.load_config(), {key: getattr(config, key) for key in LOCAL_KEYS}
        if any(getattr(stored, key) != value for key, value in local.items()):
            run.save_config(stored.model_copy(update=local))
        _train(["resume", str(run.path)], config, folder, on_epoch)
    else:
        settings = folder / "config.yaml"
        with atomic_write(settings) as temporary:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        _train(["fit", str(settings)], config, folder, on_epoch)
    finished = finished_run(config, folder)
    if finished is None:
        raise ExternalError(f"{folder}: the training wrote no checkpoint", code="experiment.no_checkpoint")
    return finished


def _of_run(tracker: object, name: str, folder: Path) -> object:
    """Return a tracker that keeps the runs of an experiment apart: each is run 1 in its own folder."""
    if isinstance(tracker, MlflowTracker):
        return tracker.model_copy(update={"run_name": f"{tracker.run_name or name} {folder.name}"})
    if isinstance(tracker, TensorBoardTracker) and tracker.folder is not None:
        return tracker.model_copy(update={"folder": tracker.folder / folder.parent.name / folder.name})
    return tracker


def _latest_run(config: Config, folder: Path) -> RunFolder | None:
    runs = [path for path in (folder / config.name).glob("*") if path.name.isdecimal()]
    return RunFolder(max(runs, key=lambda path: int(path.name))) if runs else None


def _train(arguments: list[str], config: Config, folder: Path, on_epoch: OnEpoch | None) -> None:
    """Run a command of `train` until it ends; report its epochs meanwhile."""
    reply, log = folder / "result.json", folder / "log.txt"
    with reply.open("wb") as stdout, log.open("ab") as stderr:
        process = start_process(arguments, stdout, stderr)
        try:
            epochs = 0
            while True:
                try:
                    code = process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    code = None
                run = _latest_run(config, folder)
                epochs = epochs if run is None else _report_epochs(run, epochs, on_epoch)
                if code is not None:
                    break
        finally:
            stop_process(process)
    if code:
        raise reported_error(code, reply, log)


def start_process(arguments: list[str], stdout: IO[bytes], stderr: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start a command of `train` with `--json`, which gets SIGTERM if this process ends; stderr: None for our own."""
    prctl = ctypes.CDLL(None).prctl  # loaded here, before the fork
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-P", "-m", "train.cli", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the training
        preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def _report_epochs(run: RunFolder, reported: int, on_epoch: OnEpoch | None) -> int:
    """Call `on_epoch` with the rows after the first `reported`; return how many have been reported."""
    if on_epoch is None:
        return 0
    rows = run.epochs()
    for row in rows[reported:]:
        on_epoch(row)
    return max(reported, len(rows))


def stop_process(process: subprocess.Popen[bytes], patience_s: float = _STOP_S) -> None:
    """End a process by SIGTERM; kill it if it has not ended in time."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def reported_error(code: int, reply: Path, log: Path | None = None) -> TritonkitError:
    """Return the error that a command printed as JSON, or one that says how it ended."""
    where = "" if log is None else f" (log: {log})"
    try:
        reported: dict[str, Any] = json.loads(reply.read_bytes())["error"]
        kind = getattr(errors, reported["type"], ExternalError)  # an error of Python is one of the child
        problems = [Problem(**problem) for problem in reported.get("problems", ())]
        if reported["type"] != KeyboardInterrupt.__name__:
            error: TritonkitError = kind(f"{reported['message']}{where}", code=reported["code"], problems=problems)
            return error
    except (ValueError, KeyError, TypeError):
        pass  # it was killed before it could write
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ExternalError(f"the training {ended}{where}", code="experiment.training_ended")
