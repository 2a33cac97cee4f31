"""Shares the images of an epoch among processes: every process gets the same number of batches, none an image twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class TrainingShare(Sampler[Any]):
    """One process's part of each batch of all processes.

    The processes together see the batches that one process with a batch of their total size sees. Images too few for
    one more batch of that size are left out, as one process does.
    """

    def __init__(self, sampler: Any, batch_size: int, rank: int, count: int) -> None:
        """sampler: the order of all images, equal in each process. batch_size: of one process."""
        self._sampler, self._rank = sampler, rank
        self._size = min(batch_size, len(sampler) // count)
        self._step = self._size * count

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, as Lightning does for the sampler itself."""
        self._sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._sampler) // self._step * self._size

    def __iter__(self) -> Iterator[Any]:
        order = list(self._sampler)
        for start in range(self._rank * self._size, len(order) // self._step * self._step, self._step):
            yield from order[start : start + self._size]


def validation_batches(images: int, batch_size: int, rank: int, count: int) -> list[list[int]]:
    """Return the batches of one process, as indices of images.

    Their number is equal in all processes, because each forward pass of DDP synchronises buffers; their sizes differ
    by at most one. images: at least one for each process.
    """
    most = -(-images // count)
    batches = -(-most // batch_size)
    return [batch.tolist() for batch in np.array_split(np.arange(rank, images, count), batches)]
