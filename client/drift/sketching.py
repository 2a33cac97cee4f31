"""The two sketches of a comparison: that of the reference, and a new one of the pictures to compare."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from client.picture import Picture
from tritonkit.errors import InputError
from tritonkit.images.pixel_budget import PixelBudget
from tritonkit.images.preprocess import MAX_PIXELS, ImageArray, ImageError
from tritonkit.runtimes.base import Runner
from tritonkit.sketch import MIN_IMAGES, SKETCH_FILE, Sketch, SketchSampler, sketch_of_artifact
from tritonkit.spec import ModelSpec
from tritonkit.tasks import task_of

if TYPE_CHECKING:
    from tritonkit.triton.runner import TritonRunner

_BATCHES_AHEAD = 3
_THREADS = 4
_Batch: TypeAlias = list[tuple[Picture, "Future[ImageArray]"]]


@dataclass
class PictureSample:
    """A sketch of pictures, and the pictures of its rows."""

    sampler: SketchSampler
    pictures: dict[int, Picture] = field(default_factory=dict)
    """By number among the answered ones. Others are not kept, because a picture may hold its content."""
    errors: dict[str, str] = field(default_factory=dict)
    """Why pictures have no answer, by name."""

    def add(self, runner: Runner, batch: _Batch) -> None:
        """Answer a batch that is being decoded. Raises InferenceError."""
        task, readable = task_of(runner.spec), []
        for picture, loading in batch:
            try:
                readable.append((picture, loading.result()))
            except ImageError as error:
                self.errors[picture.name] = str(error)
        if not readable:
            return
        images = np.stack([image for _, image in readable])
        outputs = runner.infer(images)
        valid: list[int] = []
        for row, (picture, _) in enumerate(readable):
            problem = task.value_problem({name: array[row : row + 1] for name, array in outputs.items()})
            if problem is None:
                self.pictures[self.sampler.seen + len(valid)] = picture
                valid.append(row)
            else:
                self.errors[picture.name] = problem
        if valid:
            self.sampler.add(images[valid], {name: array[valid] for name, array in outputs.items()})
            self.pictures = {number: self.pictures[number] for number in self.sampler.numbers}

    def sketch(self, version: str) -> Sketch:
        """The sketch of the answered pictures. Raises InputError for fewer than 30."""
        if self.sampler.seen < MIN_IMAGES:
            raise InputError(
                f"{self.sampler.seen} pictures were answered, {len(self.errors)} were not; drift needs at least "
                f"{MIN_IMAGES} answers, because fewer show no distribution",
                code="drift.too_few_images",
            )
        return self.sampler.sketch(f"{self.sampler.seen} pictures", version)

    def picture(self, row: int) -> Picture:
        """The picture of a row of the sketch."""
        return self.pictures[self.sampler.numbers[row]]


def sketch_pictures(runner: Runner, pictures: Iterable[Picture], batch: int, sample: PictureSample) -> Iterator[None]:
    """Answer pictures and add them to a sample; yields once for each picture. Raises InferenceError.

    The next batches are decoded while one is answered.
    """
    size = min(batch, runner.max_batch or batch)
    budget = PixelBudget.for_threads(_THREADS, minimum=MAX_PIXELS)
    stream, ahead = iter(pictures), deque[_Batch]()
    with ThreadPoolExecutor(_THREADS, "decode") as pool:
        try:
            while True:
                while len(ahead) < _BATCHES_AHEAD and (chunk := list(islice(stream, size))):
                    ahead.append([(p, pool.submit(partial(_load, p, runner.spec, budget))) for p in chunk])
                if not ahead:
                    return
                current = ahead.popleft()
                sample.add(runner, current)
                for _ in current:
                    yield
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _load(picture: Picture, spec: ModelSpec, budget: PixelBudget) -> ImageArray:
    return picture.load(spec.preprocess, budget)[0]


def find_sketch(runner: Runner, sketch: Path | None, artifact: Path | None, repository: Path) -> Path:
    """Return the path of the reference sketch: `sketch`, else that next to the artifact or of the served version.

    Raises InputError if there is none.
    """
    if sketch is not None:
        if not sketch.is_file():
            raise InputError(f"--sketch {sketch}: no such file", code="drift.no_sketch")
        path = sketch
    elif artifact is not None:
        path = sketch_of_artifact(artifact) or artifact.with_name(SKETCH_FILE)
    else:
        served: TritonRunner = runner  # type: ignore[assignment]  # a runner without an artifact
        path = repository / served.model / served.version / SKETCH_FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no drift sketch of {runner.spec.name}. Set --repository to the repository that the server "
            "serves, or --sketch to a file. `train fit` and `builder export --sketch FOLDER` write one; for a served "
            "model, `client drift MODEL FOLDER --save-sketch FILE` makes one of a folder of reference images",
            code="drift.no_sketch",
        )
    return path


def load_reference(path: Path, runner: Runner, version: str) -> Sketch:
    """Read a sketch and check that it belongs to the runner's model. version: empty if it is not known.

    Raises InputError for a sketch of another model or version, ArtifactError for a file that cannot be read.
    """
    sketch = Sketch.load(path)
    differing = sketch.differing_fields(runner.spec)
    if version and sketch.version and sketch.spec.name != runner.spec.name:
        differing = ["name", *differing]
    if differing:
        raise InputError(
            f"{path}: belongs to another model than {runner.origin}, because {', '.join(differing)} differ. Set "
            "--sketch or --repository to the files of the model that answers",
            code="drift.other_model",
        )
    if sketch.images < MIN_IMAGES:
        raise InputError(
            f"{path}: has {sketch.images} reference images; drift needs at least {MIN_IMAGES}. Make a sketch of more "
            "with `client drift MODEL FOLDER --save-sketch FILE`",
            code="drift.small_sketch",
        )
    if version and sketch.version and version != sketch.version:
        raise InputError(
            f"{path}: belongs to version {sketch.version}, but version {version} of {runner.origin} answers. Set "
            f"--version {sketch.version}, or --sketch to the file of version {version}",
            code="drift.other_version",
        )
    return sketch
