"""The golden sample: real images with the answers the trained model gave, kept beside a checkpoint."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ArtifactError
from model.files import written_beside
from model.preprocess import ImageArray
from model.runners.base import Outputs

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
                return cls(
                    images=arrays["images"],
                    outputs={k.removeprefix(_OUTPUT): arrays[k] for k in arrays.files if k.startswith(_OUTPUT)},
                    targets=arrays["targets"] if "targets" in arrays.files else None,
                    source=str(arrays["source"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: not a readable golden sample ({error})") from error


def beside_checkpoint(checkpoint: Path) -> Golden | None:
    """The golden sample of a checkpoint: `<stem>.golden.npz`, or the folder's `golden.npz`; None without one."""
    for candidate in (checkpoint.with_suffix(".golden.npz"), checkpoint.with_name("golden.npz")):
        if candidate.is_file():
            return Golden.load(candidate)
    return None
