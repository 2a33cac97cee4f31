"""Translates failures of the machine during a run: a signal, missing resources, a killed worker process."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from train.config.loading import Config
from train.distributed.launch import is_peer_lost
from train.engine.run_folder import RunFolder
from tritonkit.errors import ConfigError, ExternalError, TritonkitError, is_external_failure

_SHARED_MEMORY = ("unable to allocate shared memory", "unable to write to file </torch_", "Bus error")
_DESCRIPTORS = ("Too many open files", "items of ancdata")
_KILLED = ("DataLoader worker (pid", "exited unexpectedly")
_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@contextmanager
def translate_failures(run: RunFolder | None, config: Config) -> Iterator[None]:
    """Translate errors that stop a run into one sentence with the next step; None for a run that has no next step.

    Raises KeyboardInterrupt for a stop by keyboard or signal, ExternalError if the machine lacks a resource,
    ConfigError if the GPU has too little memory. Other errors pass, without the traceback of a worker.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{str(stop) or 'stopped by Ctrl-C'}{_next_step(run)}") from stop
    except Exception as error:
        failure = None if isinstance(error, TritonkitError) else machine_failure(error, config)
        if failure is not None:
            raise ExternalError(f"{failure}{_next_step(run)}", code=failure.code) from error
        translated = translate_failure(error, config)
        if translated is not None:
            raise translated from error
        raise


def run_trainer(
    trainer: Trainer, module: LightningModule, train: DataLoader[Any], val: DataLoader[Any], state: Path | None = None
) -> None:
    """Fit a module. state: Lightning's checkpoint to continue from.

    Raises KeyboardInterrupt for a stop by keyboard or signal, and ExternalError if a callback ends the process.
    """
    threads = torch.get_num_threads()
    try:
        # With more threads and workers than cores, torch becomes very slow.
        torch.set_num_threads(max(1, threads - train.num_workers))
        trainer.fit(module, train, val, ckpt_path=state, weights_only=True)
    except SystemExit as stop:
        # Lightning turns both signals into exits: Ctrl+C into exit code 1, SIGTERM into 0. Neither fits here.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from stop
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(*stop.__context__.args) from stop
        raise ExternalError(
            f"a callback ended the training with exit code {stop.code}", code="training.callback_exit"
        ) from stop
    except RuntimeError as error:
        # A signal to a process group also ends the workers, and their end may be noticed first.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from error
        raise
    finally:
        torch.set_num_threads(threads)


def translate_failure(error: Exception, config: Config) -> Exception | None:
    """Return a clearer error in place of this one; None if it is clear already."""
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(
            f"the GPU has too little memory for batch_size {config.batch_size}; lower it", code="training.gpu_memory"
        )
    return _without_traceback(error)


def machine_failure(error: Exception, config: Config) -> ExternalError | None:
    """Return an ExternalError if the machine lacks a resource; None for other errors."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return None
    if isinstance(error, ChildProcessError):
        return ExternalError(f"process {text}", code="training.process_ended")
    if is_peer_lost(error):
        return ExternalError(
            "another process of the training has ended, or cannot be reached", code="training.process_lost"
        )
    if _has(text, _DESCRIPTORS) or (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return ExternalError(
            f"too many open files, the limit is {limit}: raise it with `ulimit -n`, or set workers=0",
            code="machine.open_files",
        )
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM) and error.filename is None:
        return ExternalError(
            f"the machine cannot start more processes ({error.strerror}): lower workers ({config.workers})",
            code="machine.processes",
        )
    if isinstance(error, OSError) and error.errno and (is_external_failure(error) or error.errno == errno.EROFS):
        return ExternalError(f"{error.filename or 'the run'}: {error.strerror}", code="machine.disk")
    if isinstance(error, MemoryError) or _has(text, _MEMORY):
        return ExternalError(
            f"too little memory for batch_size {config.batch_size} and {config.workers} workers; lower one of them",
            code="machine.memory",
        )
    if _has(text, _SHARED_MEMORY):
        return ExternalError(
            "no shared memory left for the workers: set workers=0, or use a container with a larger --shm-size",
            code="machine.shared_memory",
        )
    if _has(text, _KILLED):
        return ExternalError(
            f"a worker was killed, usually for lack of memory: lower workers ({config.workers}) or batch_size",
            code="machine.worker_killed",
        )
    return None


def _without_traceback(error: Exception) -> Exception | None:
    """Return a worker's error without the traceback that torch adds to its message; None for other errors."""
    kind, text = type(error), str(error)
    if not (text.startswith("Caught ") and "DataLoader worker process" in text):
        return None
    for name in (f"{kind.__module__}.{kind.__qualname__}: ", f"{kind.__qualname__}: "):
        if f"\n{name}" in text:
            message = text.rpartition(f"\n{name}")[2].strip()
            return kind(message) if isinstance(error, TritonkitError) else RuntimeError(f"{name}{message}")
    return RuntimeError(text.strip().splitlines()[-1])


def _next_step(run: RunFolder | None) -> str:
    if run is None:
        return ""
    best = run.checkpoint("best")
    return f"; the run is finished: {best}" if best.is_file() else f"; resume with: train resume {run.path}"


def _has(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
