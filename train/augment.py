"""Random changes of training pictures, after preprocessing and on uint8."""

from __future__ import annotations

from torchvision.transforms import v2

from train.config import AugmentConfig


def augmentation(config: AugmentConfig, fill: tuple[int, int, int]) -> v2.Transform:
    """A transform of uint8 tensors [3, H, W]; what moves in from outside the picture has the colour `fill`."""
    if not config.enabled:
        return v2.Identity()
    # One resampling for all three: each on its own would blur the picture again.
    geometry = v2.RandomAffine(
        degrees=config.rotate,
        translate=(config.shift, config.shift),
        scale=(1 - config.scale, 1 + config.scale),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=list(fill),
    )
    color = v2.ColorJitter(brightness=config.color, contrast=config.color, saturation=config.color)
    moves = config.rotate or config.shift or config.scale
    steps = [v2.RandomHorizontalFlip(config.flip), *([geometry] if moves else []), *([color] if config.color else [])]
    return v2.Compose(steps)
