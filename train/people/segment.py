"""`train segment`: runs a segmentation model over pictures, and stores each object's mask in a database."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from train.people.database import MaskDatabase, MaskSettings, PictureMasks, StoredPicture, mask_database
from train.people.pictures import Picture, read_pictures
from tritonkit.errors import InputError
from tritonkit.images.objects import objects_of
from tritonkit.images.preprocess import Geometry, ImageArray, ImageError, decode_image, fit_image
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.runtimes import Runner, open_artifact
from tritonkit.runtimes.formats import model_files
from tritonkit.spec import Frozen, ModelSpec
from tritonkit.system.console import track_progress
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_of

_BATCH, _THREADS = 8, 4
_WAIT_S = 0.2
"""Pause before pictures that other processes have claimed are looked at again."""
_PATIENCE_S = 60.0
"""Seconds for which requests to Triton are repeated."""
_PERSON = "person"


@dataclass(frozen=True)
class SegmentOptions:
    """The options of `train segment`. The model is an artifact, or a model on a Triton at `url`."""

    pictures: str
    artifact: str | None
    url: str | None
    model: str | None
    database: str | None
    label: str | None
    min_share: float
    process_all: bool


class SegmentationResult(Frozen):
    """The result of `train segment`."""

    database: str
    model: str
    label: str
    segmented: int
    """Pictures whose masks this call stored."""
    objects: int
    """Masks that this call stored."""
    skipped: int
    """Pictures that were done before, or by another process meanwhile."""
    failed: dict[str, str]
    """The reason for each picture that could not be read."""


@dataclass
class _Segmenter:
    runner: Runner
    class_number: int
    settings: MaskSettings
    database: MaskDatabase
    process_all: bool
    started: float = field(default_factory=time.time)

    def run(self, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, PictureMasks | None]]:
        """Segment all pictures; yield each when it is stored, with None if it was done already."""
        size = min(_BATCH, self.runner.max_batch or _BATCH)
        # Processes that start at once begin at different pictures.
        start = random.randrange(len(pictures))  # noqa: S311 - no secret
        waiting = [*pictures[start:], *pictures[:start]]
        with ThreadPoolExecutor(_THREADS) as pool:
            while waiting:
                claimed_by_others: list[Picture] = []
                for first in range(0, len(waiting), size):
                    yield from self._process(waiting[first : first + size], pool, claimed_by_others)
                if len(claimed_by_others) == len(waiting):
                    time.sleep(_WAIT_S)
                waiting = claimed_by_others

    def _process(
        self, batch: Sequence[Picture], pool: ThreadPoolExecutor, claimed_by_others: list[Picture]
    ) -> Iterator[tuple[Picture, PictureMasks | None]]:
        """Store the masks of those pictures of a batch that are neither done nor claimed."""
        by_digest: dict[str, tuple[Picture, bytes]] = {}
        for picture, content in zip(batch, pool.map(_read, batch), strict=True):
            if isinstance(content, ImageError):
                yield picture, PictureMasks("", picture.name, None, (), str(content))
                continue
            data, digest = content
            if digest in by_digest:
                yield picture, None  # a copy
            else:
                by_digest[digest] = (picture, data)
        by_digest, done = self._without_done(by_digest)
        yield from done
        if not by_digest:
            return
        with self.database.claim(by_digest) as claimed:
            claimed_by_others += [picture for digest, (picture, _) in by_digest.items() if digest not in claimed]
            # Another process may have finished them between the first look and the claim.
            mine, done = self._without_done({digest: by_digest[digest] for digest in claimed})
            results = self._segment(mine, pool)
            self.database.save(results, self.settings)
        yield from done
        yield from ((mine[result.sha256][0], result) for result in results)

    def _without_done(
        self, pictures: dict[str, tuple[Picture, bytes]]
    ) -> tuple[dict[str, tuple[Picture, bytes]], list[tuple[Picture, None]]]:
        rows = self.database.pictures(pictures.keys()) if pictures else {}
        done = {digest for digest, row in rows.items() if self._is_done(row)}
        left = {digest: entry for digest, entry in pictures.items() if digest not in done}
        return left, [(pictures[digest][0], None) for digest in done]

    def _is_done(self, row: StoredPicture) -> bool:
        is_fresh = not self.process_all or row.time >= self.started
        return row.is_done and row.settings == self.settings and is_fresh

    def _segment(self, pictures: dict[str, tuple[Picture, bytes]], pool: ThreadPoolExecutor) -> list[PictureMasks]:
        """Find the objects of pictures; one that cannot be decoded has an error."""
        loaded = list(pool.map(lambda entry: _load(entry[1], self.runner.spec), pictures.values()))
        images = [content[0] for content in loaded if not isinstance(content, ImageError)]
        masks = iter(self.runner.infer(np.stack(images))[task_of(self.runner.spec).output] if images else ())
        results = []
        for (digest, (picture, _)), content in zip(pictures.items(), loaded, strict=True):
            if isinstance(content, ImageError):
                results.append(PictureMasks(digest, picture.name, None, (), str(content)))
                continue
            geometry = content[1]
            objects = objects_of(next(masks), geometry, self.class_number, self.settings.min_share)
            results.append(PictureMasks(digest, picture.name, geometry.source_size, objects))
        return results


def segment(options: SegmentOptions) -> SegmentationResult:
    """Store the masks of all pictures that are not done. Several processes may share the work.

    Raises InputError, ArtifactError, InferenceError, ExternalError.
    """
    found = read_pictures(options.pictures)
    runner, model = _open_model(options)
    with runner:
        label = _label(runner.spec, options.label)
        settings = MaskSettings(model, label, options.min_share)
        database = mask_database(options.database, found.folder)
        segmenter = _Segmenter(runner, runner.spec.labels.index(label), settings, database, options.process_all)
        segmented = objects = skipped = 0
        failed = {}
        for picture, result in track_progress(segmenter.run(found.pictures), "segmenting", len(found.pictures)):
            if result is None:
                skipped += 1
            elif result.error is not None:
                failed[picture.shown] = result.error
            else:
                segmented, objects = segmented + 1, objects + len(result.objects)
    return SegmentationResult(
        database=database.name,
        model=model,
        label=label,
        segmented=segmented,
        objects=objects,
        skipped=skipped,
        failed=dict(sorted(failed.items())),
    )


def _open_model(options: SegmentOptions) -> tuple[Runner, str]:
    """Open the model; return it with its name and what tells it from others of this name."""
    if options.artifact is not None:
        path = local_artifact(options.artifact)
        runner = open_artifact(path)
        return runner, f"{runner.spec.name}@{_artifact_digest(path)}"
    from tritonkit.system.local_servers import default_url
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import Connection
    from tritonkit.triton.runner import TritonRunner

    connection = Connection(url=options.url or default_url(), patience_s=_PATIENCE_S)
    served = TritonRunner(TritonClient(connection), options.model or "").pin_version()
    digest = hashlib.sha256(served.spec.to_json().encode()).hexdigest()
    return served, f"{served.model}/{served.version}@{digest[:16]}"


def _artifact_digest(path: Path) -> str:
    """Return a digest of an artifact, and of its weights where they are in a second file."""
    return hashlib.sha256("".join(map(file_sha256, model_files(path))).encode()).hexdigest()[:16]


def _label(spec: ModelSpec, option: str | None) -> str:
    """Return the label whose regions are objects. Raises InputError."""
    if spec.task != "segmentation":
        raise InputError(
            f"{spec.name}: is a {spec.task} model; expected a segmentation model", code="people.not_segmentation"
        )
    objects = spec.labels[1:]
    label = option or (objects[0] if len(objects) == 1 else _PERSON)
    if label not in objects:
        raise InputError(
            f"--label {label}: {spec.name} has no such label; choose one of {', '.join(objects):.300}",
            code="people.unknown_label",
        )
    return label


def _read(picture: Picture) -> tuple[bytes, str] | ImageError:
    try:
        return picture.read()
    except ImageError as error:
        return error


def _load(data: bytes, spec: ModelSpec) -> tuple[ImageArray, Geometry] | ImageError:
    try:
        # A pipeline decodes at full size, because crops need it; the decoder's reduction would change masks.
        return fit_image(decode_image(data), spec.preprocess)
    except ImageError as error:
        return error
