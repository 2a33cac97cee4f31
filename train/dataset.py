"""Samples as batches of uint8 images and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from model.errors import DataError
from model.preprocess import ImageArray, ImageError, Preprocess, load_file
from train.samples import Sample

Batch = tuple[Tensor, Tensor]
"""uint8 images [N, H, W, 3] and the task's targets [N, ...]."""


class Pictures(Dataset[tuple[Tensor, Any]]):
    """Each picture as the model takes it, uint8 [H, W, 3]; augmented where an `augment` is given."""

    def __init__(
        self,
        samples: Sequence[Sample],
        targets: NDArray[np.int64],
        preprocess: Preprocess,
        augment: v2.Transform | None = None,
    ) -> None:
        self.samples, self.targets = samples, targets
        self.preprocess, self.augment = preprocess, augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Raises DataError when the picture cannot be read (any more)."""
        image = torch.from_numpy(load_sample(self.samples[index], self.preprocess))
        if self.augment is not None:
            image = self.augment(image.permute(2, 0, 1)).permute(1, 2, 0)
        return image, self.targets[index]


def load_sample(sample: Sample, preprocess: Preprocess) -> ImageArray:
    """A sample's picture, uint8 [H, W, 3]. Raises DataError."""
    try:
        return load_file(sample.path, preprocess)[0]
    except ImageError as error:
        raise DataError(f"{sample.path}: the picture cannot be read: {error}") from error


def loader(pictures: Pictures, batch_size: int, workers: int, training: bool = False) -> DataLoader[Batch]:
    """All pictures in order; for training shuffled, without a smaller last batch."""
    return DataLoader(
        pictures,
        batch_size=batch_size,
        shuffle=training,
        drop_last=training and len(pictures) >= batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
