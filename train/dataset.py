"""Samples as batches of uint8 images and targets.

An epoch is a pure function of the run's seed and its number: the order of the pictures, and the random changes of
each, depend on nothing else, neither on the number of workers nor on what was drawn before. So a run that was
killed and resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from model.errors import DataError
from model.preprocess import Geometry, ImageArray, ImageError, Preprocess, load_file
from model.spec import TaskSpec
from train.samples import Sample
from train.tasks.base import Batched, TrainingTask

Batch = tuple[Tensor, Batched]
"""uint8 images [N, H, W, 3] and the task's targets [N, ...]."""
Drawn = tuple[int, int]
"""The epoch, and the number of a sample."""


class Pictures(Dataset[tuple[Tensor, Any]]):
    """Each picture as the model takes it, uint8 [H, W, 3]; augmented where an `augment` is given."""

    def __init__(
        self,
        samples: Sequence[Sample],
        task: TrainingTask,
        question: TaskSpec,
        preprocess: Preprocess,
        augment: v2.Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.samples, self.task, self.question = samples, task, question
        self.preprocess, self.augment, self.seed = preprocess, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, drawn: Drawn | int) -> tuple[Tensor, Any]:
        """Raises DataError when the picture cannot be read (any more)."""
        epoch, index = drawn if isinstance(drawn, tuple) else (0, drawn)
        sample = self.samples[index]
        image = torch.from_numpy(load_sample(sample, self.preprocess)[0])
        target = self.task.target(sample.truth, sample.gallery, self.preprocess, self.question)
        if self.augment is None:
            return image, target
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also seeds every GPU: without one, it keeps a stack trace of each call.
            torch.default_generator.manual_seed(mixed(self.seed, epoch, index))
            return self._augmented(image, target)

    def _augmented(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        picture = tv_tensors.Image(image.permute(2, 0, 1))
        if isinstance(target, np.ndarray) and target.shape == image.shape[:2]:
            changed, mask = self.augment(picture, tv_tensors.Mask(torch.from_numpy(target)))  # type: ignore[misc]
            return changed.as_subclass(Tensor).permute(1, 2, 0), mask.as_subclass(Tensor)
        return self.augment(picture).as_subclass(Tensor).permute(1, 2, 0), target  # type: ignore[misc]


class EpochSampler(Sampler[Drawn]):
    """All samples in an order of the epoch's own; with `per_class`, so many of a class one after the other."""

    def __init__(self, classes: Sequence[str], seed: int, per_class: int | None = None, epoch: int = 0) -> None:
        self._classes, self._seed, self._per_class = classes, seed, per_class
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch that comes next, but for the first one, which it draws before that."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[Drawn]:
        draw = np.random.default_rng((self._seed, self._epoch))
        order = draw.permutation(len(self._classes))
        if self._per_class is not None:
            order = self._grouped(order, draw, self._per_class)
        return iter([(self._epoch, int(index)) for index in order])

    def _grouped(self, order: Any, draw: np.random.Generator, size: int) -> Any:
        """The order cut into groups of one class each, shuffled; a class's last group may be smaller."""
        by_class: dict[str, list[int]] = {}
        for index in order:
            by_class.setdefault(self._classes[index], []).append(index)
        groups = [each[i : i + size] for each in by_class.values() for i in range(0, len(each), size)]
        return [index for number in draw.permutation(len(groups)) for index in groups[number]]


def load_sample(sample: Sample, preprocess: Preprocess) -> tuple[ImageArray, Geometry]:
    """A sample's picture, uint8 [H, W, 3], and how it was fitted. Raises DataError."""
    try:
        return load_file(sample.path, preprocess)
    except ImageError as error:
        raise DataError(f"{sample.path}: the picture cannot be read: {error}") from error


def loader(
    pictures: Pictures, batch_size: int, workers: int, sampler: EpochSampler | None = None
) -> DataLoader[tuple[Tensor, Any]]:
    """All pictures: in order, or, for training, in the sampler's and without a smaller last batch."""
    return DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=sampler is not None and len(pictures) >= batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def mixed(*parts: int) -> int:
    """One seed from several."""
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1
