"""The drift sketch: a model's answers to a sample of reference images, stored next to a checkpoint or a version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.system.files import atomic_write
from tritonkit.tasks import task_of
from tritonkit.tasks.base import OutputSummary

SKETCH_FILE = "sketch.npz"
MAX_IMAGES = 1000
"""A KS distance of 0.1 is significant between 500 and 1000 images, and a file of 1000 is small: 30 kB for ten labels,
1 MB for embeddings of 512 numbers."""
MIN_IMAGES = 30
"""Fewer images cannot show a distribution."""
PICTURE_COLUMNS = ("brightness", "contrast", "sharpness", "colour")
_VALUES, _COLUMNS, _LABELS = "values.", "columns.", "labels."
_COMPARED_FIELDS = ("task", "labels", "thresholds", "embedding_size", "probability", "heads", "input", "preprocess")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Sketch:
    """A model's answers to a sample of N images, and what these images look like.

    spec: of the model, without its lineage. outputs: by head. pictures: float16 [N, 4], see `picture_values`.
    source: describes where the images come from. version: of the published model; empty for a checkpoint.
    """

    spec: ModelSpec
    outputs: dict[str, OutputSummary]
    pictures: NDArray[np.float16]
    source: str
    version: str = ""

    @property
    def images(self) -> int:
        """The number of images, N."""
        return len(self.pictures)

    def save(self, path: Path) -> None:
        """Write the sketch to an `.npz` file, atomically."""
        arrays: dict[str, Any] = {
            f"{prefix}{name}": array
            for name, summary in self.outputs.items()
            for prefix, array in (
                (_VALUES, summary.values),
                (_COLUMNS, np.array(summary.columns, dtype=np.str_)),
                (_LABELS, summary.labels),
            )
        }
        texts = {"spec": self.spec.to_json(), "source": self.source, "version": self.version}
        arrays |= {name: np.array(text) for name, text in texts.items()}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, pictures=self.pictures, **arrays)

    @classmethod
    def load(cls, path: Path) -> Sketch:
        """Read a sketch from an `.npz` file without unpickling anything. Raises ArtifactError, SpecError."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = [key.removeprefix(_VALUES) for key in arrays.files if key.startswith(_VALUES)]
                sketch = cls(
                    spec=ModelSpec.from_json(str(arrays["spec"]), origin=str(path)),
                    outputs={
                        name: OutputSummary(
                            arrays[f"{_VALUES}{name}"],
                            tuple(arrays[f"{_COLUMNS}{name}"].tolist()),
                            arrays[f"{_LABELS}{name}"],
                        )
                        for name in names
                    },
                    pictures=arrays["pictures"],
                    source=str(arrays["source"]),
                    version=str(arrays["version"]),
                )
        except TritonkitError:
            raise
        except Exception as error:  # zipfile, zlib and numpy share no base class
            raise ArtifactError(f"{path}: not a readable drift sketch ({error})", code="sketch.unreadable") from error
        sketch._check(path)
        return sketch

    def differing_fields(self, spec: ModelSpec) -> list[str]:
        """The fields in which a model differs from that of the sketch, so that their answers cannot be compared."""
        return [name for name in _COMPARED_FIELDS if getattr(self.spec, name) != getattr(spec, name)]

    def _check(self, path: Path) -> None:
        label_counts = {
            name: len((self.spec.heads.get(name) or self.spec).labels) if summary.labels.shape[1:] != (0,) else 0
            for name, summary in self.outputs.items()
        }
        count = len(self.pictures) if self.pictures.ndim else 0
        expected: dict[str, tuple[NDArray[Any], type[np.generic], tuple[int, ...]]] = {
            "pictures": (self.pictures, np.float16, (count, len(PICTURE_COLUMNS)))
        }
        for name, summary in self.outputs.items():
            expected[f"{_VALUES}{name}"] = (summary.values, np.float16, (count, len(summary.columns)))
            expected[f"{_LABELS}{name}"] = (summary.labels, np.bool_, (count, label_counts[name]))
        for name, (array, dtype, shape) in expected.items():
            if array.dtype != dtype or array.shape != shape or not count or not np.isfinite(array).all():
                raise ArtifactError(
                    f"{path}: {name}: expected finite {dtype.__name__} {list(shape)} of at least one image, got "
                    f"{array.dtype} {list(array.shape)}",
                    code="sketch.array",
                )


class SketchSampler:
    """Collects a sketch of up to 1000 images of any number, each with the same chance, with a fixed seed."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec, self._task = spec.public(), task_of(spec)
        self._random = np.random.default_rng(0)
        self._rows: list[tuple[dict[str, OutputSummary], NDArray[np.float16]]] = []
        self.seen = 0
        """The number of images that were added."""
        self.numbers: list[int] = []
        """Of each image of the sketch, its number among those that were added."""

    def add(self, images: ImageArray, outputs: Outputs) -> None:
        """Add a batch, uint8 [N, H, W, 3], with the valid outputs of the model. Algorithm R of Vitter, 1985."""
        places: dict[int, int] = {}  # of the last image for each place
        for i in range(len(images)):
            place = self.seen if self.seen < MAX_IMAGES else int(self._random.integers(self.seen + 1))
            if place < MAX_IMAGES:
                places[place] = i
                self.numbers[place : place + 1] = [self.seen]
            self.seen += 1
        if not places:
            return
        kept = list(places.values())
        summaries = self._task.summarize({name: array[kept] for name, array in outputs.items()})
        for row, (place, pictures) in enumerate(zip(places, picture_values(images[kept]), strict=True)):
            one = {n: OutputSummary(s.values[row], s.columns, s.labels[row]) for n, s in summaries.items()}
            self._rows[place : place + 1] = [(one, pictures)]

    def sketch(self, source: str, version: str = "") -> Sketch:
        """Return the sketch of the images so far; at least one."""
        first, _ = self._rows[0]
        outputs = {
            name: OutputSummary(
                np.stack([summaries[name].values for summaries, _ in self._rows]),
                first[name].columns,
                np.stack([summaries[name].labels for summaries, _ in self._rows]),
            )
            for name in first
        }
        return Sketch(self._spec, outputs, np.stack([row for _, row in self._rows]), source, version)


def picture_values(images: ImageArray) -> NDArray[np.float16]:
    """Return what images uint8 [N, H, W, 3] look like, float16 [N, 4]: `PICTURE_COLUMNS`, in levels of 0..255.

    Mean and standard deviation of the luma, mean difference of neighbouring pixels' luma, and mean difference between
    the highest and the lowest of the three colours.
    """
    rows = []
    for image in images:
        luma = image @ _LUMA
        edges = [np.abs(np.diff(luma, axis=axis)).mean() for axis in (0, 1) if luma.shape[axis] > 1]
        colour = np.ptp(image, axis=2).mean()
        rows.append([luma.mean(), luma.std(), np.mean(edges) if edges else 0.0, colour])
    return np.array(rows, dtype=np.float16)


def sketch_of_artifact(artifact: Path) -> Path | None:
    """Return the sketch of a checkpoint or an artifact, `<stem>.sketch.npz` or `sketch.npz` in its folder, or None."""
    candidates = (artifact.with_suffix(".sketch.npz"), artifact.with_name(SKETCH_FILE))
    return next((path for path in candidates if path.is_file()), None)
