"""Failures of the machine, as torch and Python report them, become one error each."""

from __future__ import annotations

import errno

import pytest
import torch

from tests.train_configs import tiny_config
from train.engine.failures import machine_failure, translate_failure
from tritonkit.errors import ConfigError, DataError

GLOO = "/__w/pytorch/pytorch/third_party/gloo/gloo/transport"
IN_WORKER = "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n{0}: {1}"


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (
            RuntimeError(IN_WORKER.format("RuntimeError", "unable to allocate shared memory(shm) for file </torch_1>")),
            "machine.shared_memory",
            "--shm-size",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "), "machine.shared_memory", ""),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "machine.worker_killed", "workers"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "machine.worker_killed", "workers"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/metrics.csv"), "machine.disk", "runs/metrics.csv: "),
        (OSError(errno.EMFILE, "Too many open files"), "machine.open_files", "ulimit -n"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "machine.processes", "workers"),
        (
            RuntimeError(f"[{GLOO}/tcp/pair.cc:537] Connection closed by peer"),
            "training.process_lost",
            "another process",
        ),
        (MemoryError(), "machine.memory", "batch_size 32 and 2 workers"),
    ],
)
def test_failure_names_the_resource_when_the_machine_lacks_it(error: Exception, code: str, expected: str) -> None:
    failure = machine_failure(error, tiny_config())
    assert failure is not None
    assert failure.code == code
    assert expected in str(failure)


def test_gpu_memory_is_named_when_there_is_too_little() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert machine_failure(error, tiny_config()) is None
    translated = translate_failure(error, tiny_config())
    assert isinstance(translated, ConfigError)
    assert translated.code == "training.gpu_memory"
    assert "batch_size 32" in str(translated)


def test_error_of_a_worker_has_no_traceback_when_translated() -> None:
    text = IN_WORKER.format("DataError", "").replace("\nDataError", "\ntritonkit.errors.DataError")
    translated = translate_failure(DataError(f"{text}a.png: the picture cannot be read"), tiny_config())
    assert (type(translated), str(translated)) == (DataError, "a.png: the picture cannot be read")
    translated = translate_failure(ValueError(IN_WORKER.format("ValueError", "odd")), tiny_config())
    assert (type(translated), str(translated)) == (RuntimeError, "ValueError: odd")


def test_error_stays_unchanged_when_it_is_not_of_the_machine() -> None:
    igloo = RuntimeError("cannot identify image file /data/igloo/transport/3.jpg")
    for error in (DataError("data"), OSError(errno.ENOENT, "No such file", "x"), ValueError("odd"), igloo):
        assert machine_failure(error, tiny_config()) is None
        assert translate_failure(error, tiny_config()) is None
