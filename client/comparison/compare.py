"""Answer the same images with two models and compare the answers.

Each model prepares the images in its own way. Both run the same batches, one request at a time, and take turns at
being first, so that neither profits from a warm cache.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.comparison.results import (
    MAX_CHANGED,
    ChangedAnswer,
    FailedImage,
    Flip,
    ModelComparison,
    ModelSpeed,
)
from client.infer import InferenceSettings
from client.picture import Picture
from tritonkit.comparison import max_error_per_image, select_rows, valid_answers
from tritonkit.images.preprocess import Geometry, ImageArray, ImageError, Preprocess
from tritonkit.pages.contact_sheet import overlay, thumbnail
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.tasks import Answer, Task, task_of
from tritonkit.tasks.base import IMPOSSIBLE_ANSWER_ADVICE, Agreement

BLOCK = 1024
"""Images among which nearest neighbours are searched."""
_DENSE_BLOCK = 4
"""Images whose masks are in memory at once."""
_TOP = 3

Loaded = tuple[ImageArray, Geometry]


@dataclass
class ComparedModel:
    """One of the two models, and how long it took so far."""

    name: str
    runner: Runner
    task: Task = field(init=False)
    seconds: float = 0.0
    images: int = 0

    def __post_init__(self) -> None:
        self.task = task_of(self.runner.spec)

    @property
    def preprocess(self) -> Preprocess:
        """How it prepares an image."""
        return self.runner.spec.preprocess

    def infer(self, batch: ImageArray) -> Outputs:
        """Run the model on a batch and count the time; the first batch runs twice, because the first run is slow."""
        if not self.images:
            self.runner.infer(batch)
        started = time.perf_counter()
        outputs = self.runner.infer(batch)
        self.seconds += time.perf_counter() - started
        self.images += len(batch)
        return outputs

    def speed(self) -> ModelSpeed:
        """Return the mean time of an image."""
        return ModelSpeed(
            name=self.name,
            origin=self.runner.origin,
            version=getattr(self.runner, "version", ""),
            ms_per_image=1e3 * self.seconds / self.images if self.images else 0.0,
        )


class Tile(NamedTuple):
    """A changed answer with what the page shows of it."""

    rank: tuple[float, float]
    number: int
    """Of the image; makes ranks unique."""
    changed: ChangedAnswer
    thumbnails: tuple[str, ...]
    """Data URLs: the image, or two of it with the masks over it; empty if it cannot be read any more."""


class _Answered(NamedTuple):
    """Images that both models answered, with the outputs [N, ...] of each."""

    pictures: list[Picture]
    geometries: tuple[list[Geometry], list[Geometry]]
    outputs: tuple[Outputs, Outputs]


class Comparer:
    """Compares two models on a stream of images; memory does not grow with their number."""

    def __init__(self, old: ComparedModel, new: ComparedModel, batch: int, with_thumbnails: bool) -> None:
        """with_thumbnails: whether tiles get thumbnails. Raises SpecError if the models have different tasks."""
        self.models = old, new
        self.joint = old.task.joint(new.task)
        limits = [model.runner.max_batch for model in self.models if model.runner.max_batch]
        self._batch = min([batch, *limits])
        self._with_thumbnails = with_thumbnails
        self._same_input = old.preprocess == new.preprocess
        self._settings = InferenceSettings()
        self._turns = itertools.cycle([(0, 1), (1, 0)])
        self._numbers = itertools.count()
        self._tiles: list[Tile] = []
        self._flips: Counter[tuple[str, str, str]] = Counter()
        self._failures: list[FailedImage] = []
        self._measures: defaultdict[str, float] = defaultdict(float)
        self._images = self._changed = self._failed = self._values = 0
        self._difference_sum = self._max_difference = 0.0

    def run(self, pictures: Iterable[Picture]) -> None:
        """Compare all images. Raises InferenceError, ArtifactError."""
        stream = iter(pictures)
        size = max(_DENSE_BLOCK, self._batch) if self.joint.dense else BLOCK
        with ThreadPoolExecutor(self._settings.workers, "decode") as decoders:
            while block := list(itertools.islice(stream, size)):
                if answered := self._join(list(self._infer(block, decoders))):
                    self._compare(answered)

    def _infer(self, pictures: Sequence[Picture], decoders: ThreadPoolExecutor) -> Iterator[_Answered]:
        """Yield the batches of a block, without the images that failed."""
        chunks = [pictures[start : start + self._batch] for start in range(0, len(pictures), self._batch)]
        for chunk in chunks:
            loaded = list(decoders.map(self._load, chunk))
            readable = [
                (picture, pair) for picture, pair in zip(chunk, loaded, strict=True) if not isinstance(pair, ImageError)
            ]
            for picture, pair in zip(chunk, loaded, strict=True):
                if isinstance(pair, ImageError):
                    self._fail(picture, str(pair))
            if not readable:
                continue
            outputs: list[Outputs] = [{}, {}]
            for turn in next(self._turns):
                outputs[turn] = self.models[turn].infer(np.stack([pair[turn][0] for _, pair in readable]))
            valid = np.ones(len(readable), dtype=bool)
            for model, values in zip(self.models, outputs, strict=True):
                is_valid = valid_answers(model.task, values)
                for number in np.flatnonzero(valid & ~is_valid):
                    problem = model.task.value_problem(select_rows(values, np.array([number])))
                    self._fail(readable[number][0], f"{model.name}: {problem}. {IMPOSSIBLE_ANSWER_ADVICE}")
                valid &= is_valid
            if valid.any():
                kept = np.flatnonzero(valid)
                geometries = ([readable[n][1][0][1] for n in kept], [readable[n][1][1][1] for n in kept])
                rows = (select_rows(outputs[0], kept), select_rows(outputs[1], kept))
                yield _Answered([readable[n][0] for n in kept], geometries, rows)

    def _load(self, picture: Picture) -> tuple[Loaded, Loaded] | ImageError:
        old, new = self.models
        try:
            first = picture.load(old.preprocess, self._settings.pixel_budget)
            return first, first if self._same_input else picture.load(new.preprocess, self._settings.pixel_budget)
        except ImageError as error:
            return error

    def _fail(self, picture: Picture, error: str) -> None:
        self._failed += 1
        if len(self._failures) < MAX_CHANGED:
            self._failures.append(FailedImage(path=picture.name, error=error))

    @staticmethod
    def _join(batches: Sequence[_Answered]) -> _Answered | None:
        if not batches:
            return None
        outputs = [
            {
                name: np.concatenate([batch.outputs[turn][name] for batch in batches])
                for name in batches[0].outputs[turn]
            }
            for turn in (0, 1)
        ]
        geometries = [[each for batch in batches for each in batch.geometries[turn]] for turn in (0, 1)]
        pictures = [picture for batch in batches for picture in batch.pictures]
        return _Answered(pictures, (geometries[0], geometries[1]), (outputs[0], outputs[1]))

    def _compare(self, answered: _Answered) -> None:
        """Compare the answers to one block of images."""
        old, new = (
            model.task.relabel(outputs, self.joint)
            for model, outputs in zip(self.models, answered.outputs, strict=True)
        )
        answers = [
            [
                model.task.answer({name: array[number] for name, array in outputs.items()}, geometry, _TOP)
                for number, geometry in enumerate(geometries)
            ]
            for model, outputs, geometries in zip(self.models, answered.outputs, answered.geometries, strict=True)
        ]
        agreement = self._agreement(old, new, answered.geometries)
        changed = np.flatnonzero(~self.joint.decisions_kept(agreement))
        worst = 1 - np.minimum.reduce(list(agreement.values()))
        errors = max_error_per_image(old, new) if not self.joint.dense else worst
        self._count(agreement, changed, old, new)
        names = [picture.name for picture in answered.pictures]
        captions = [model.task.captions(each, names) for model, each in zip(self.models, answers, strict=True)]
        for number in changed:
            before, after = (each[number] for each in answers)
            self._count_flips(before, after)
            rank = float(worst[number]), float(errors[number])
            if len(self._tiles) == MAX_CHANGED and rank <= self._tiles[0].rank:
                next(self._numbers)
                continue
            entry = ChangedAnswer(
                path=names[number],
                before=captions[0][number],
                after=captions[1][number],
                agreement={measure: float(values[number]) for measure, values in agreement.items()},
                difference=rank[1],
            )
            images = self._thumbnails(answered.pictures[number], before, after) if self._with_thumbnails else ()
            push = heapq.heappushpop if len(self._tiles) == MAX_CHANGED else heapq.heappush
            push(self._tiles, Tile(rank, -next(self._numbers), entry, images))

    def _agreement(self, old: Outputs, new: Outputs, geometries: tuple[list[Geometry], list[Geometry]]) -> Agreement:
        if not self.joint.dense or self._same_input:
            return self.joint.agreement(old, new, geometries[0])
        # Inputs of different sizes or crops: the masks are compared at the size of the original image.
        rows: list[Agreement] = []
        for number, pair in enumerate(zip(*geometries, strict=True)):
            fitted = [
                {name: pair[turn].mask_to_source(array[number])[None] for name, array in outputs.items()}
                for turn, outputs in enumerate((old, new))
            ]
            rows.append(self.joint.agreement(fitted[0], fitted[1]))
        return {measure: np.concatenate([row[measure] for row in rows]) for measure in rows[0]}

    def _count(self, agreement: Agreement, changed: NDArray[np.intp], old: Outputs, new: Outputs) -> None:
        self._images += len(next(iter(agreement.values())))
        self._changed += len(changed)
        for measure, values in agreement.items():
            self._measures[measure] += float(values.sum())
        for name, array in old.items():
            other = new.get(name)
            if other is not None and array.shape == other.shape and np.issubdtype(array.dtype, np.floating):
                differences = np.abs(other.astype(np.float64) - array)
                self._difference_sum += float(differences.sum())
                self._values += differences.size
                self._max_difference = max(self._max_difference, float(differences.max()))

    def _count_flips(self, before: Answer, after: Answer) -> None:
        old, new = (model.task.decisions(each.fields) for model, each in zip(self.models, (before, after), strict=True))
        for decision in dict.fromkeys((*old, *new)):
            pair = old.get(decision, "no"), new.get(decision, "no")
            if pair[0] != pair[1]:
                self._flips[(decision, *pair)] += 1

    @staticmethod
    def _thumbnails(picture: Picture, before: Answer, after: Answer) -> tuple[str, ...]:
        with suppress(ImageError):  # the file was deleted meanwhile
            image = picture.decode()
            masks = [answer.mask for answer in (before, after) if answer.mask is not None]
            sizes_fit = all(mask.shape == (image.height, image.width) for mask in masks)
            drawn = [overlay(image, mask) for mask in masks] if sizes_fit else []
            return tuple(map(thumbnail, drawn or [image]))
        return ()

    @property
    def tiles(self) -> list[Tile]:
        """The changed answers, the largest difference first."""
        return sorted(self._tiles, reverse=True)

    def result(self) -> ModelComparison:
        """Return what was found so far."""
        specs = [model.runner.spec for model in self.models]
        return ModelComparison(
            old=self.models[0].speed(),
            new=self.models[1].speed(),
            task=self.joint.name,
            images=self._images,
            changed=self._changed,
            measures={measure: total / self._images for measure, total in self._measures.items()},
            mean_difference=self._difference_sum / self._values if self._values else None,
            max_difference=self._max_difference if self._values else None,
            flips=tuple(
                Flip(decision=decision, before=before, after=after, images=count)
                for (decision, before, after), count in self._flips.most_common()
            ),
            only_old=_labels_missing(*specs),
            only_new=_labels_missing(*reversed(specs)),
            most_changed=tuple(tile.changed for tile in self.tiles),
            failed=self._failed,
            failures=tuple(self._failures),
        )


def _labels_missing(spec: ModelSpec, other: ModelSpec) -> tuple[str, ...]:
    """Return the labels of a model that the other one lacks; those of a head after its name and a dot."""
    pairs: list[tuple[str, Any, Any]] = [(f"{name}.", head, other.heads[name]) for name, head in spec.heads.items()]
    return tuple(
        f"{prefix}{label}"
        for prefix, mine, others in pairs or [("", spec, other)]
        for label in mine.labels
        if label not in others.labels
    )
