"""Real pictures and tiny networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tritonkit.images.preprocess import ImageArray


@pytest.fixture(scope="session")
def cat(photos: Path) -> Image.Image:
    """A photograph, 451 x 300."""
    with Image.open(photos / "cat.jpg") as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def batch(photos: Path) -> ImageArray:
    """All photographs, squashed to uint8 [4, 32, 32, 3]."""
    pictures = [Image.open(path).convert("RGB").resize((32, 32)) for path in sorted(photos.glob("*.jpg"))]
    return np.stack([np.array(picture) for picture in pictures])
