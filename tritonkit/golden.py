"""The golden sample: real images with the outputs of the trained model, stored next to a checkpoint."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import MAX_PIXELS, Geometry, ImageArray
from tritonkit.spec import Outputs
from tritonkit.system.files import atomic_write
from tritonkit.tasks.base import Targets

GOLDEN_FILE = "golden.npz"
MAX_IMAGES = 32
_OUTPUT, _TARGET, _PROBE = "output.", "target.", "probe."


@dataclass(frozen=True)
class Golden:
    """Up to 32 preprocessed images with the trained model's outputs and, where known, the ground truth.

    images: uint8 [N, H, W, 3]. outputs: each [N, ...], of the trained model; empty if unknown.
    targets: the ground truth in the form that the task's `quality` takes; empty if unknown.
    geometries: float64 [N, 10], how each image was fitted (size, source box, target box), or None.
    source: describes where the images come from.
    """

    images: ImageArray
    outputs: Outputs
    targets: Targets = field(default_factory=dict)
    geometries: NDArray[np.float64] | None = None
    source: str = "validation images"
    probe_outputs: Outputs = field(default_factory=dict)
    """The trained model's outputs for the probes of these images (`probes_of`), each [P, ...]; empty if unknown."""

    @property
    def geometry_values(self) -> list[Geometry] | None:
        """The geometries as `Geometry` values, None if unknown."""
        if self.geometries is None:
            return None
        return [
            Geometry((int(row[0]), int(row[1])), tuple(row[2:6].tolist()), tuple(row[6:10].tolist()))
            for row in self.geometries
        ]

    def without(self, names: Container[str]) -> Golden:
        """Return the sample without the outputs of some heads, and without their truths."""

        def kept(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: array for name, array in arrays.items() if name not in names}

        return replace(
            self, outputs=kept(self.outputs), targets=kept(self.targets), probe_outputs=kept(self.probe_outputs)
        )

    def save(self, path: Path) -> None:
        """Write the sample to an `.npz` file, atomically."""
        arrays: dict[str, Any] = {f"{_OUTPUT}{name}": v for name, v in self.outputs.items()}
        arrays |= {f"{_TARGET}{name}": v for name, v in self.targets.items()}
        arrays |= {f"{_PROBE}{name}": v for name, v in self.probe_outputs.items()}
        if self.geometries is not None:
            arrays["geometries"] = self.geometries
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=self.images, source=np.array(self.source), **arrays)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read a sample from an `.npz` file without unpickling anything. Raises ArtifactError."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                golden = cls(
                    images=arrays["images"],
                    outputs=_arrays_with_prefix(_OUTPUT, arrays),
                    targets=_arrays_with_prefix(_TARGET, arrays),
                    geometries=arrays["geometries"] if "geometries" in arrays.files else None,
                    source=str(arrays["source"]),
                    probe_outputs=_arrays_with_prefix(_PROBE, arrays),
                )
        except Exception as error:  # zipfile, zlib and numpy share no base class
            raise ArtifactError(f"{path}: not a readable golden sample ({error})", code="golden.unreadable") from error
        golden._check(path)
        return golden

    def _check(self, path: Path) -> None:
        images = self.images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ArtifactError(
                f"{path}: golden images are uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}",
                code="golden.image_type",
            )
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ArtifactError(
                f"{path}: a golden sample has 1 to {MAX_IMAGES} images, got {len(images)}", code="golden.count"
            )
        arrays = {**self.outputs, **{f"target {name}": array for name, array in self.targets.items()}}
        for name, array in arrays.items():
            if array.shape[:1] != images.shape[:1]:
                raise ArtifactError(
                    f"{path}: {len(images)} images, but {name} is {list(array.shape)}", code="golden.shape"
                )
        if self.geometries is not None and self.geometries.shape != (len(images), 10):
            raise ArtifactError(
                f"{path}: {len(images)} images, but geometries is {list(self.geometries.shape)}", code="golden.shape"
            )
        if self.geometries is not None and not _are_valid(self.geometries, images.shape[2], images.shape[1]):
            raise ArtifactError(
                f"{path}: the geometries are not image sizes with boxes inside the image and the input",
                code="golden.geometry",
            )


def pack_geometries(geometries: Iterable[Geometry]) -> NDArray[np.float64]:
    """Convert geometries to the array of a golden sample, float64 [N, 10]."""
    rows = [(*geometry.source_size, *geometry.source_box, *geometry.target_box) for geometry in geometries]
    return np.array(rows, dtype=np.float64)


def _are_valid(geometries: NDArray[Any], width: int, height: int) -> bool:
    """Whether sizes and boxes are possible: masks are resized to these sizes, so a huge size must be refused."""
    if geometries.dtype != np.float64 or not np.isfinite(geometries).all():
        return False
    sizes, low, high = geometries[:, :2], geometries[:, [2, 3, 6, 7]], geometries[:, [4, 5, 8, 9]]
    limits = np.concatenate([sizes, np.broadcast_to((width, height), sizes.shape)], axis=1)
    in_bounds = bool((sizes >= 1).all()) and bool((sizes.prod(axis=1) <= MAX_PIXELS).all())
    return in_bounds and bool(((low >= 0) & (low < high) & (high <= limits)).all())


def _arrays_with_prefix(prefix: str, arrays: Any) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def golden_of_checkpoint(checkpoint: Path) -> Golden | None:
    """Load the golden sample of a checkpoint, `<stem>.golden.npz` or `golden.npz` in its folder; None if absent."""
    for candidate in (checkpoint.with_suffix(".golden.npz"), checkpoint.with_name(GOLDEN_FILE)):
        if candidate.is_file():
            return Golden.load(candidate)
    return None
