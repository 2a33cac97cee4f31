"""What a graph does not say of itself: what it is asked, and how pictures are prepared for it.

Whatever is assumed stands in the source's description: a graph agrees with itself under any mean and std, so no
verdict can tell that they are wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.options import ForeignModelOptions, ForeignTask, Layout
from builder.sources.graph import Given, Last, Raw
from builder.sources.labels import read_labels
from builder.sources.pictures import applied, described_fit, described_normalize
from model.errors import InputError
from model.files import sha256_of
from model.preprocess import Preprocess
from model.recipe import Recipe
from model.spec import Architecture, Lineage, ModelSpec, Normalize, TaskSpec, image_input
from model.tasks import task_for
from model.tasks.multiclass import SUM_TOLERANCE

_IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_RAW_PIXELS = Normalize(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))
_CROP_RATIO = 0.875
"""Of most ImageNet models: the centre 224 of 256."""


@dataclass(frozen=True)
class Decided:
    """What a graph's answers are to mean."""

    question: TaskSpec
    last: Last
    why: str


def preprocess_of(path: Path, size: tuple[int | None, int | None], foreign: ForeignModelOptions) -> Preprocess:
    """How pictures are prepared for a graph of this height and width, None where they are open. Raises InputError."""
    like = _recipe(foreign)
    usual = (like.preprocess.height, like.preprocess.width) if foreign.model is not None else None
    height, width = _size_of(path, size, foreign.size, usual)
    preprocess, _ = applied(replace(foreign, size=(height, width)), like)
    return preprocess


def _recipe(foreign: ForeignModelOptions) -> Recipe:
    """That of the model which was named, else what most models have; its size is then of no meaning."""
    if foreign.model is not None:
        from model.backbones import recipe_of

        return recipe_of(foreign.model)
    squashed = foreign.task == "segmentation"
    return Recipe(
        Preprocess(1, 1, "squash") if squashed else Preprocess(1, 1, crop_ratio=_CROP_RATIO), _IMAGENET, "assumed"
    )


def decided(path: Path, raw: Raw, given: Given, foreign: ForeignModelOptions, size: tuple[int, int]) -> Decided:
    """What the graph's last values mean. Raises InputError where that is not what was said.

    raw: its own answers to photographs, [N, ...].
    """
    task: ForeignTask = foreign.task or "multiclass"
    if task == "segmentation":
        return _of_pixels(path, raw, given.layout, foreign, size)
    if raw.ndim != 2 and not (raw.ndim > 2 and set(raw.shape[2:]) == {1}):
        raise InputError(f"{path}: {_unfit_shape(raw, task, size)}")
    if not np.issubdtype(raw.dtype, np.floating):
        raise InputError(f"{path}: output {given.output} is {raw.dtype}; a {task} model gives fractions")
    if task == "embedding":
        foreign.refuse(("--activation",), "an embedding is brought to length 1, and nothing else is added to it")
        question = TaskSpec(task=task, embedding_size=raw.shape[1])
        return Decided(question, "unit length", "brought to length 1")
    question = TaskSpec(task=task, labels=_labels(path, raw.shape[1], foreign))
    last, why = _activation(path, raw.reshape(len(raw), -1), task, foreign)
    return Decided(question, last, why)


def spec_of(
    path: Path, given: Given, preprocess: Preprocess, question: TaskSpec, foreign: ForeignModelOptions
) -> ModelSpec:
    """The spec of a graph. Raises SpecError."""
    image = image_input(preprocess)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip("._-")[:128] or "model"
    return ModelSpec(
        name=name,
        **question.model_dump(),
        architecture=Architecture(library="graph", name=path.stem),
        input=image,
        outputs=task_for(question).outputs(image),
        preprocess=preprocess,
        normalize=normalize_of(given, foreign),
        lineage=Lineage(parent=f"sha256:{sha256_of(path)}"),
    )


def normalize_of(given: Given, foreign: ForeignModelOptions) -> Normalize:
    """Mean and std in front of a graph; one that takes uint8 normalises by itself. Raises InputError."""
    if given.dtype == "uint8":
        foreign.refuse(("--mean", "--std"), f"input {given.input} takes uint8 pixels, so the graph normalises itself")
        return _RAW_PIXELS
    usual = _recipe(foreign).normalize
    return Normalize(mean=foreign.mean or usual.mean, std=foreign.std or usual.std)


def described(given: Given, spec: ModelSpec, made: Decided, foreign: ForeignModelOptions) -> str:
    """What was found, and what was assumed because nobody said it."""
    how = spec.preprocess
    size = f"{how.height} x {how.width}"
    like = _recipe(foreign)
    if given.dtype == "uint8":
        normalised = "pixels as they are"
    else:
        whose = like.origin if foreign.model else "ImageNet's, assumed"
        normalised = described_normalize(spec.normalize, foreign, whose)
    return (
        f"takes {given.input!r} as {given.dtype} {given.layout} {size} RGB, {normalised}; "
        f"{described_fit(how, foreign, like.source)}; gives {given.output!r}: {made.why}"
    )


def _size_of(
    path: Path, found: tuple[int | None, int | None], said: tuple[int, int] | None, usual: tuple[int, int] | None
) -> tuple[int, int]:
    """The graph's own sides; those it leaves open as was said, else as is usual."""
    nothing, sides = (None, None), []
    for name, own, wanted, last in zip(("height", "width"), found, said or nothing, usual or nothing, strict=True):
        if own is not None and wanted is not None and own != wanted:
            raise InputError(f"{path}: takes {name} {own}, but {wanted} was said; leave --size out, or export it anew")
        side = own or wanted or last
        if side is None:
            raise InputError(f"{path}: does not say for which {name} it is; give --size N or HEIGHTxWIDTH")
        sides.append(side)
    return sides[0], sides[1]


def _labels(path: Path, count: int, foreign: ForeignModelOptions) -> tuple[str, ...]:
    if foreign.labels is None:
        raise InputError(
            f"{path}: gives {count} values for a picture; name them with --labels FILE ({count} lines), or give "
            "--task embedding"
        )
    labels = read_labels(foreign.labels)
    if len(labels) != count:
        raise InputError(f"{foreign.labels}: {len(labels)} labels, but {path} gives {count} values for a picture")
    return labels


def _activation(path: Path, raw: Raw, task: ForeignTask, foreign: ForeignModelOptions) -> tuple[Last, str]:
    usual: Last = "softmax" if task == "multiclass" else "sigmoid"
    if foreign.activation == "none":
        return "none", "taken as it is, as --activation says"
    if foreign.activation is not None and foreign.activation != usual:
        raise InputError(f"--activation {foreign.activation}: a {task} model ends in a {usual}; give {usual} or none")
    low, high = float(raw.min()), float(raw.max())
    in_range = low >= 0 and high <= 1 + SUM_TOLERANCE
    values = f"{low:.3g}..{high:.3g} on {len(raw)} photographs"
    if foreign.activation is not None:
        return usual, f"{usual} added, as --activation says"
    if not in_range:
        return usual, f"logits ({values}), {usual} added"
    sums = raw.astype(np.float64).sum(axis=1)
    if task == "multilabel" or bool(np.abs(sums - 1).max() <= SUM_TOLERANCE):
        return "none", f"probabilities ({values}) as they are"
    raise InputError(
        f"{path}: its values ({values}) are neither probabilities that sum to 1 (they sum to {sums.mean():.3g}) nor "
        "surely logits; give --task multilabel where each label holds by itself, or --activation softmax or none"
    )


def _of_pixels(path: Path, raw: Raw, layout: Layout, foreign: ForeignModelOptions, size: tuple[int, int]) -> Decided:
    foreign.refuse(("--activation",), "a mask takes the most probable label, with or without a softmax before")
    if raw.ndim != 4:
        raise InputError(f"{path}: {_unfit_shape(raw, 'segmentation', size)}")
    channel, spatial = (1, raw.shape[2:]) if layout == "NCHW" else (3, raw.shape[1:3])
    if tuple(spatial) != size:
        raise InputError(
            f"{path}: answers {spatial[0]} x {spatial[1]} places for pictures of {size[0]} x {size[1]}; export it with "
            "its upsampling, so that each pixel has an answer"
        )
    count = raw.shape[channel]
    labels = _labels(path, 2 if count == 1 else count, foreign)
    question = TaskSpec(task="segmentation", labels=labels)
    if count > 1:
        return Decided(question, "argmax", f"a mask of the largest of its {count} values for each pixel")
    fractions = bool(raw.min() >= 0 and raw.max() <= 1)
    last: Last = "above 0.5" if fractions else "above 0"
    return Decided(question, last, f"one {'probability' if fractions else 'logit'} for each pixel, cut {last}")


def _unfit_shape(raw: Raw, task: str, size: tuple[int, int]) -> str:
    shape = ", ".join(map(str, raw.shape[1:]))
    if raw.ndim == 4 and task != "segmentation":
        return f"answers [{shape}] for a picture, but a {task} model gives a row of numbers; give --task segmentation"
    wanted = f"[labels, {size[0]}, {size[1]}]" if task == "segmentation" else "[labels]"
    return f"answers [{shape}] for a picture; a {task} model answers {wanted}. Detection is no task of this kit"
