"""Loads samples as batches of uint8 images and targets.

An epoch depends only on the run's seed and the epoch's number: the order of the images and their random changes do
not depend on the number of workers or on earlier epochs. So a killed and resumed run sees the same data as a run
without a break.
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

from train.tasks.base import BatchTargets, TrainingTask
from tritonkit.evaluation.evaluate import load_sample
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import TaskSpec

Batch = tuple[Tensor, BatchTargets]
"""uint8 images [N, H, W, 3] and the task's targets [N, ...]."""
SampleIndex = tuple[int, int]
"""An epoch and the index of a sample."""


class ImageDataset(Dataset[tuple[Tensor, Any]]):
    """Preprocessed images, uint8 [H, W, 3], with their targets; augmented if `augment` is set."""

    def __init__(
        self,
        samples: Sequence[Sample],
        task: TrainingTask,
        task_spec: TaskSpec,
        preprocess: Preprocess,
        augment: v2.Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.samples, self.task, self.task_spec = samples, task, task_spec
        self.preprocess, self.augment, self.seed = preprocess, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleIndex | int) -> tuple[Tensor, Any]:
        """Load one image and its target. Raises DataError if the image cannot be read."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.samples[index]
        image = torch.from_numpy(load_sample(sample, self.preprocess)[0])
        target = self.task.target(sample.truth, sample.gallery, self.preprocess, self.task_spec)
        if self.augment is None:
            return image, target
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed every GPU; without a GPU it stores a stack trace for each call.
            torch.default_generator.manual_seed(mix_seeds(self.seed, epoch, index))
            return self._augmented(image, target)

    def _augmented(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        # For torchvision a plain tensor is an image too; tv_tensors.Image would take a fifth of the time of all this.
        image = image.permute(2, 0, 1)
        if isinstance(target, np.ndarray) and target.shape == image.shape[1:]:
            changed, mask = self.augment(image, tv_tensors.Mask(torch.from_numpy(target)))  # type: ignore[misc]
            return changed.permute(1, 2, 0), mask.as_subclass(Tensor)
        return self.augment(image).permute(1, 2, 0), target  # type: ignore[misc]


class EpochSampler(Sampler[SampleIndex]):
    """Shuffles the samples for each epoch.

    per_class: that many images of a class follow each other. balanced: each label is drawn equally often.
    """

    def __init__(
        self,
        labels: Sequence[Sequence[str]],
        seed: int,
        per_class: int | None = None,
        epoch: int = 0,
        balanced: bool = False,
    ) -> None:
        """labels: of each sample; grouping by class uses the first."""
        self._labels, self._seed, self._per_class, self._balanced = labels, seed, per_class, balanced
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch. Lightning calls this for each epoch except the first."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[SampleIndex]:
        draw = np.random.default_rng((self._seed, self._epoch))
        order = self._balanced_order(draw) if self._balanced else draw.permutation(len(self._labels))
        if self._per_class is not None:
            order = self._grouped(order, draw, self._per_class)
        return iter([(self._epoch, int(index)) for index in order])

    def _balanced_order(self, draw: np.random.Generator) -> Any:
        """Draw as many samples as there are, equally many for each label; images without a label are one label more.

        No image of a label repeats before all of them were drawn.
        """
        by_label: dict[str, list[int]] = {}
        for index, labels in enumerate(self._labels):
            for label in labels or ("",):
                by_label.setdefault(label, []).append(index)
        total, drawn = len(self._labels), list[int]()
        for number, label in enumerate(draw.permutation(sorted(by_label))):
            members = by_label[str(label)]
            count = total // len(by_label) + (number < total % len(by_label))
            rounds = [draw.permutation(members) for _ in range(-(-count // len(members)))]
            drawn += np.concatenate(rounds)[:count].tolist() if rounds else []
        return draw.permutation(drawn)

    def _grouped(self, order: Any, draw: np.random.Generator, size: int) -> Any:
        """Divide the order into shuffled groups of one class each; the last group of a class may be smaller."""
        by_class: dict[str, list[int]] = {}
        for index in order:
            by_class.setdefault(next(iter(self._labels[index]), ""), []).append(index)
        groups = [each[i : i + size] for each in by_class.values() for i in range(0, len(each), size)]
        return [index for number in draw.permutation(len(groups)) for index in groups[number]]


def make_loader(
    images: ImageDataset,
    batch_size: int,
    workers: int,
    sampler: Sampler[SampleIndex] | None = None,
    batches: list[list[int]] | None = None,
) -> DataLoader[tuple[Tensor, Any]]:
    """Create a data loader: in file order, or for training in the sampler's order, without a smaller last batch.

    batches: the indices of each batch, in place of all images in file order.
    """
    # A full batch is never the smaller one.
    drop_last = sampler is not None and len(sampler) >= batch_size  # type: ignore[arg-type]
    order: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler, "drop_last": drop_last}
    return DataLoader(
        images,
        **({"batch_sampler": batches} if batches is not None else order),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def mix_seeds(*parts: int) -> int:
    """Combine several seeds into one."""
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1
