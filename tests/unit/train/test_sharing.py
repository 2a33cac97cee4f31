"""How processes share the images of an epoch."""

from __future__ import annotations

import pytest

from train.data.dataset import EpochSampler
from train.distributed.sharing import TrainingShare, validation_batches


@pytest.mark.parametrize(("images", "batch_size", "count"), [(40, 4, 2), (43, 4, 3), (9, 16, 2), (8, 2, 4)])
def test_training_shares_make_up_the_batches_of_one_process_with_their_total_size(
    images: int, batch_size: int, count: int
) -> None:
    sampler = EpochSampler([""] * images, seed=1)
    shares = [TrainingShare(sampler, batch_size, rank, count) for rank in range(count)]
    for share in shares:
        share.set_epoch(3)
    size = min(batch_size, images // count)
    parts = [list(share) for share in shares]
    assert [len(part) for part in parts] == [len(share) for share in shares] == [len(parts[0])] * count
    order = list(sampler)
    assert order[0][0] == 3
    for step in range(0, len(parts[0]), size):
        together = [index for part in parts for index in part[step : step + size]]
        assert together == order[step * count : (step + size) * count]
    assert images - len(parts[0]) * count < size * count


@pytest.mark.parametrize(("images", "batch_size", "count"), [(10, 4, 2), (9, 4, 2), (17, 8, 2), (7, 32, 3), (3, 2, 3)])
def test_validation_shares_have_each_image_once_in_equally_many_batches(
    images: int, batch_size: int, count: int
) -> None:
    shares = [validation_batches(images, batch_size, rank, count) for rank in range(count)]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(images))
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= batch_size for share in shares for batch in share)
