"""Parts of a spec, and images."""

from __future__ import annotations

import numpy as np
import pytest

from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import ModelSpec


@pytest.fixture
def document(spec: ModelSpec) -> dict[str, object]:
    """The spec as the JSON object it travels as."""
    return spec.model_dump(mode="json")


@pytest.fixture(scope="session")
def batch() -> ImageArray:
    """Four images of noise, uint8 [4, 32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
