"""What stops a run from outside, each in one sentence: a signal, the machine's resources, a worker process."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.errors import ConfigError, ExternalError, TritonkitError
from train.config import Config
from train.run_folder import RunFolder

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)
_SHARED_MEMORY = ("unable to allocate shared memory", "unable to write to file </torch_", "Bus error")
_DESCRIPTORS = ("Too many open files", "items of ancdata")
_KILLED = ("DataLoader worker (pid", "exited unexpectedly")
_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@contextmanager
def plain_failures(run: RunFolder, config: Config) -> Iterator[None]:
    """Turn what stops a run into one sentence, with how to go on.

    Raises KeyboardInterrupt for a stop by the keyboard or a signal, ExternalError where the machine lacks something,
    ConfigError where the GPU's memory does not suffice. Other errors pass, without the traceback of a worker.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{str(stop) or 'stopped by the keyboard'}; {_next_step(run)}") from stop
    except Exception as error:
        text = plain_failure(error, config)
        if isinstance(text, str):
            raise ExternalError(f"{text}; {_next_step(run)}") from error
        if text is not None:
            raise text from error
        raise


def plain_failure(error: Exception, config: Config) -> str | Exception | None:
    """A sentence about the machine, a clearer error, or None where the error says it itself."""
    if isinstance(error, TritonkitError):
        return _without_traceback(error)
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(f"the GPU's memory does not suffice for batch_size {config.batch_size}; lower it")
    if isinstance(error, OSError) and error.errno in (*_OF_THE_MACHINE, *_NO_PROCESS):
        return _of_the_system(error, config)
    if isinstance(error, MemoryError) or _has(text, _MEMORY):
        return f"the memory does not suffice for batch_size {config.batch_size} and {config.workers} workers; lower one"
    if _has(text, _SHARED_MEMORY):
        return "no shared memory left for the workers: workers=0, or a container with a larger --shm-size"
    if _has(text, _DESCRIPTORS):
        return _too_many_files()
    if _has(text, _KILLED):
        return f"a worker was killed, most often for want of memory: lower workers ({config.workers}) or batch_size"
    return _without_traceback(error)


def _of_the_system(error: OSError, config: Config) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _too_many_files()
    if error.errno in _NO_PROCESS and error.filename is None:
        return f"the machine starts no more processes ({error.strerror}): lower workers ({config.workers})"
    return f"{error.filename or 'the run'}: {error.strerror}"


def _too_many_files() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"too many open files, {limit} are allowed: raise that with `ulimit -n`, or take workers=0"


def _without_traceback(error: Exception) -> Exception | None:
    """The error of a worker process without the traceback that torch puts into its message."""
    kind, text = type(error), str(error)
    if not (text.startswith("Caught ") and "DataLoader worker process" in text):
        return None
    for name in (f"{kind.__module__}.{kind.__qualname__}: ", f"{kind.__qualname__}: "):
        if f"\n{name}" in text:
            message = text.rpartition(f"\n{name}")[2].strip()
            return kind(message) if isinstance(error, TritonkitError) else RuntimeError(f"{name}{message}")
    return RuntimeError(text.strip().splitlines()[-1])


def _next_step(run: RunFolder) -> str:
    best = run.checkpoint("best")
    return f"the run is finished: {best}" if best.is_file() else f"go on with: train resume {run.path}"


def _has(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)
