"""What the servers have in common: a picture becomes an array, and an array becomes the most likely class."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

ONNX_FILE, SIDE, CROP = os.environ["ONNX_FILE"], int(os.environ["SIDE"]), float(os.environ["CROP"])


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode, crop and resize a picture to uint8 [SIDE, SIDE, 3]."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = picture.size
    box_side = min(width, height) * CROP
    left, top = (width - box_side) / 2, (height - box_side) / 2
    box = (left, top, left + box_side, top + box_side)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


class Classifier:
    """The model in ONNX Runtime with its default settings: as many threads as there are cores."""

    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(ONNX_FILE)

    def classify(self, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Return the most likely class of each image of uint8 [N, SIDE, SIDE, 3], and its probability."""
        (probabilities,) = self.session.run(["probabilities"], {"image": images})
        return [{"class": int(row.argmax()), "probability": float(row.max())} for row in probabilities]
