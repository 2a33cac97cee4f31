"""What the machine lacks, as torch and Python say it, in one sentence each."""

from __future__ import annotations

import errno

import pytest
import torch

from model.errors import ConfigError, DataError
from train.config import Config
from train.failures import translate_failure

IN_WORKER = "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n{0}: {1}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(IN_WORKER.format("RuntimeError", "unable to allocate shared memory(shm) for file </torch_1>")),
            "no shared memory left for the workers: workers=0, or a container with a larger --shm-size",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "), "no shared memory left"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a worker was killed"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a worker was killed"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/metrics.csv"), "runs/metrics.csv: No space left"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "the machine starts no more processes"),
        (MemoryError(), "the memory does not suffice for batch_size 32 and 2 workers"),
    ],
)
def test_failure_names_the_resource_when_the_machine_lacks_it(error: Exception, expected: str) -> None:
    assert str(translate_failure(error, config())).startswith(expected)


def test_gpu_memory_is_named_when_it_does_not_suffice() -> None:
    found = translate_failure(torch.OutOfMemoryError("CUDA out of memory"), config())
    assert isinstance(found, ConfigError)
    assert "the GPU's memory does not suffice for batch_size 32" in str(found)


def test_error_of_a_worker_is_its_sentence_alone_when_told() -> None:
    text = IN_WORKER.format("DataError", "").replace("\nDataError", "\nmodel.errors.DataError")
    found = translate_failure(DataError(f"{text}a.png: the picture cannot be read"), config())
    assert (type(found), str(found)) == (DataError, "a.png: the picture cannot be read")
    found = translate_failure(ValueError(IN_WORKER.format("ValueError", "odd")), config())
    assert (type(found), str(found)) == (RuntimeError, "ValueError: odd")


def test_error_stays_as_it_is_when_it_is_not_of_the_machine() -> None:
    for error in (DataError("data"), OSError(errno.ENOENT, "No such file", "x"), ValueError("odd")):
        assert translate_failure(error, config()) is None


def config() -> Config:
    return Config.model_validate({"name": "x", "data": {"path": "x"}, "model": {"name": "x"}, "image": {"size": 1}})
