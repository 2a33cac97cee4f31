"""Random changes of training images, after preprocessing; masks are moved with their images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from train.config.sections import AugmentConfig
from tritonkit.tasks.segmentation import IGNORED


def make_augmentation(config: AugmentConfig, fill: tuple[int, int, int]) -> v2.Transform | None:
    """Create the transform of images, plain uint8 tensors [3, H, W], and masks [H, W]; None if it would change nothing.

    Pixels from outside the image get the colour `fill`, and are ignored in masks.
    """
    steps = [*_mirrors(config), *_moves(config, fill), *_colours(config)] if config.enabled else []
    if config.enabled and (operations := config.randaugment) is not None:
        steps.append(v2.RandAugment(operations.num_ops, operations.magnitude, fill=list(fill)))
    return v2.Compose(steps) if steps else None


class BatchMix:
    """MixUp and CutMix of a whole batch; with both, each batch gets one of them."""

    def __init__(self, config: AugmentConfig, classes: int) -> None:
        kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix)) if config.enabled else ()
        transforms = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha is not None]
        self._mix = v2.RandomChoice(transforms) if transforms else None

    def __call__(self, images: Tensor, targets: Any, seed: int) -> tuple[Tensor, Any]:
        """Mix uint8 images [N, H, W, 3], and class numbers [N] or labels [N, C], to float32 images and labels [N, C].

        The result depends only on the batch and the seed. Without MixUp and CutMix the batch is returned as it is.
        """
        if self._mix is None:
            return images, targets
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixed, labels = self._mix(images.permute(0, 3, 1, 2).float(), targets)
        return mixed.permute(0, 2, 3, 1), labels


def _mirrors(config: AugmentConfig) -> list[v2.Transform]:
    flip = [v2.RandomHorizontalFlip(config.flip)] if config.flip else []
    return [*flip, *([v2.RandomVerticalFlip(config.flip_vertical)] if config.flip_vertical else [])]


def _moves(config: AugmentConfig, fill: tuple[int, int, int]) -> list[v2.Transform]:
    if not (config.rotate or config.shift or config.scale):
        return []
    # One resampling for all three, because each resampling blurs the image.
    return [
        v2.RandomAffine(
            degrees=config.rotate,
            translate=(config.shift, config.shift),
            scale=(1 - config.scale, 1 + config.scale),
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={Tensor: list(fill), tv_tensors.Mask: IGNORED},
        )
    ]


def _colours(config: AugmentConfig) -> list[v2.Transform]:
    amount = config.color
    jitter = [v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount)] if amount else []
    return [*jitter, *([RandomGamma(config.gamma)] if config.gamma else [])]


class RandomGamma(v2.Transform):  # type: ignore[misc] # torchvision is untyped
    """Changes gamma to a random value in 1 - amount .. 1 + amount."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"gamma": 1 + self.amount * (2 * torch.rand(()).item() - 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.adjust_gamma, inpt, **params)
