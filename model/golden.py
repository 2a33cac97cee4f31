"""The golden sample: real images with the answers the trained model gave, kept beside a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ArtifactError
from model.files import written_beside
from model.preprocess import ImageArray
from model.runners.base import Outputs

GOLDEN_FILE = "golden.npz"
MAX_IMAGES = 32
_OUTPUT = "output."


@dataclass(frozen=True)
class Golden:
    """Up to 32 images after preprocessing, with what is known of them.

    images: uint8 [N, H, W, 3]. outputs: each [N, ...], the trained model's; empty when unknown.
    targets: int64 [N], the true classes, or None. source: where the images come from, in words.
    """

    images: ImageArray
    outputs: Outputs
    targets: NDArray[np.int64] | None = None
    source: str = "validation images"

    def save(self, path: Path) -> None:
        """Write an `.npz`, whole or not at all."""
        arrays: dict[str, Any] = {f"{_OUTPUT}{name}": v for name, v in self.outputs.items()}
        if self.targets is not None:
            arrays["targets"] = self.targets
        with written_beside(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, images=self.images, source=np.array(self.source), **arrays)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read an `.npz` without unpickling anything. Raises ArtifactError."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                golden = cls(
                    images=arrays["images"],
                    outputs={k.removeprefix(_OUTPUT): arrays[k] for k in arrays.files if k.startswith(_OUTPUT)},
                    targets=arrays["targets"] if "targets" in arrays.files else None,
                    source=str(arrays["source"]),
                )
        except Exception as error:  # zipfile, zlib and numpy share no base class
            raise ArtifactError(f"{path}: not a readable golden sample ({error})") from error
        golden._check(path)
        return golden

    def _check(self, path: Path) -> None:
        images = self.images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ArtifactError(
                f"{path}: golden images are uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
            )
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ArtifactError(f"{path}: a golden sample has 1 to {MAX_IMAGES} images, got {len(images)}")
        for name, array in {**self.outputs, "targets": self.targets}.items():
            if array is not None and array.shape[:1] != images.shape[:1]:
                raise ArtifactError(f"{path}: {len(images)} images, but {name} is {list(array.shape)}")


def beside_checkpoint(checkpoint: Path) -> Golden | None:
    """The golden sample of a checkpoint: `<stem>.golden.npz`, or the folder's `golden.npz`; None without one."""
    for candidate in (checkpoint.with_suffix(".golden.npz"), checkpoint.with_name(GOLDEN_FILE)):
        if candidate.is_file():
            return Golden.load(candidate)
    return None
