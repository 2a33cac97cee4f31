"""`batch_size: auto`: the largest batch that fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.data.batch_size import free_memory, largest_on_cpu, largest_on_gpu
from tritonkit.errors import ConfigError

MIB = 2**20


def allocate(size: int) -> None:
    """Use 8 MiB an image."""
    memory = np.ones((size, 8 * MIB), np.uint8)
    assert memory[0, 0]


@pytest.mark.parametrize("has_free_heap", [False, True])
def test_batch_fits_into_the_free_memory_when_the_machine_has_little(has_free_heap: bool) -> None:
    blocks = [np.ones(16 * MIB, np.uint8) for _ in range(20 * has_free_heap)]
    del blocks[:-1]  # the last one keeps the others' memory from going back to the system
    assert largest_on_cpu(allocate, limit=256, available=200 * MIB) == 16
    assert largest_on_cpu(allocate, limit=256, available=400 * MIB, processes=2) == 16
    assert largest_on_cpu(allocate, limit=8, available=4000 * MIB) == 8
    with pytest.raises(ConfigError) as caught:
        largest_on_cpu(allocate, limit=256, available=2 * MIB)
    assert caught.value.code == "training.no_batch_fits"


def test_batch_is_the_last_that_fits_when_a_gpu_runs_out_of_memory() -> None:
    tried = []

    def step(size: int) -> None:
        tried.append(size)
        if size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert largest_on_gpu(step, limit=256) == 16
    assert tried == [2, 4, 8, 16, 32]
    assert free_memory() > 0
