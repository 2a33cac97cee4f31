"""Compares pictures with a sketch: which outputs, labels and properties of the pictures drifted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from client.drift.sketching import PictureSample
from client.drift.statistics import ks_tests, mmd_test, remoteness, share_test
from tritonkit.errors import InputError
from tritonkit.runtimes.base import Runner
from tritonkit.sketch import PICTURE_COLUMNS, Sketch
from tritonkit.spec import Frozen

MAX_FURTHEST = 24


class DriftTest(Frozen):
    """The result of a test."""

    p: float
    """Corrected for the number of tests."""
    drifted: bool
    """Whether the shift is significant and large enough."""


class ColumnDrift(DriftTest):
    """The distribution of one number of the answers, or of the pictures."""

    name: str
    number: int
    """Its position in the answers: labels may have the same name."""
    reference: float
    """Mean over the reference images."""
    current: float
    """Mean over the pictures."""
    distance: float
    """Kolmogorov-Smirnov: the largest difference of the two cumulative distributions, 0..1."""


class LabelDrift(DriftTest):
    """The share of images whose answer has a label, of the reference images and of the pictures."""

    label: str
    reference: float
    current: float
    low: float
    """Bounds of the change, at 95 %, not corrected for the number of labels."""
    high: float
    shift: float
    """Half of Cohen's h."""


class OutputDrift(DriftTest):
    """The answers of one head; `p` and `drifted` are those of the MMD."""

    output: str
    mmd2: float
    """The squared maximum mean discrepancy of all columns together."""
    columns: tuple[ColumnDrift, ...]
    """The most different first."""
    labels: tuple[LabelDrift, ...]
    """The largest shift first."""


class FarPicture(Frozen):
    """A picture far from all reference images."""

    path: str
    row: int = Field(exclude=True)
    """Of the sketch."""
    closer: float
    """The share of reference images that lie closer to the others, 0..1."""
    by: str
    """What it differs by: an output, or `pictures`."""


class DriftReport(Frozen):
    """The result of comparing pictures with a sketch."""

    model: str
    version: str
    origin: str
    sketch: str
    """The file, and where its images come from."""
    reference_images: int
    images: int
    """The pictures that were compared: a sample, if there are more than a sketch holds."""
    answered: int
    failed: int
    alpha: float
    min_shift: float
    drifted: bool
    outputs: tuple[OutputDrift, ...]
    pictures: tuple[ColumnDrift, ...]
    furthest: tuple[FarPicture, ...]

    def findings(self) -> list[str]:
        """Sentences about what drifted; empty without drift."""
        sentences = []
        for output in self.outputs:
            for label in output.labels:
                if label.drifted:
                    name = label.label if len(self.outputs) == 1 else f"{output.output} {label.label}"
                    more = "more" if label.shift > 0 else "fewer"
                    sentences.append(
                        f"{name}: {more} answers, {label.current:.1%} instead of {label.reference:.1%} "
                        f"(change {label.low * 100:+.1f} to {label.high * 100:+.1f} points)"
                    )
            drifted = [column.name for column in output.columns if column.drifted]
            if drifted or output.drifted:
                names = f" of {', '.join(drifted[:5])}{', …' if len(drifted) > 5 else ''}" if drifted else " as a whole"
                sentences.append(f"{output.output}: the distribution{names} changed (MMD p = {output.p:.2g})")
        for column in self.pictures:
            if column.drifted:
                sentences.append(
                    f"pictures: the {column.name} is {column.current:.1f} instead of {column.reference:.1f}"
                )
        return sentences


@dataclass(frozen=True)
class DriftTests:
    """The tests of two sketches. All together raise a false alarm with a probability of at most `alpha`.

    For that, a p-value is multiplied by the number of tests of its kind and by the number of kinds (Bonferroni).
    """

    kinds: int
    alpha: float
    min_shift: float

    def corrected(self, p: float, tests: int) -> float:
        """The p-value corrected for the number of tests."""
        return min(1.0, p * tests * self.kinds)

    def drifted(self, p: float, shift: float) -> bool:
        """Whether a shift is significant, and large enough to matter."""
        return p < self.alpha and abs(shift) >= self.min_shift

    def columns(
        self, names: tuple[str, ...], reference: NDArray[Any], current: NDArray[Any]
    ) -> tuple[ColumnDrift, ...]:
        """Compare the columns of two samples."""
        drifts = []
        for i, (distance, p) in enumerate(ks_tests(reference, current)):
            p = self.corrected(p, len(names))
            drifts.append(
                ColumnDrift(
                    name=names[i],
                    number=i,
                    reference=float(reference[:, i].mean(dtype=np.float64)),
                    current=float(current[:, i].mean(dtype=np.float64)),
                    distance=distance,
                    p=p,
                    drifted=self.drifted(p, distance),
                )
            )
        return tuple(sorted(drifts, key=lambda drift: -drift.distance))

    def labels(self, names: tuple[str, ...], reference: NDArray[Any], current: NDArray[Any]) -> tuple[LabelDrift, ...]:
        """Compare the shares of labels, bool [N, C] and [M, C]."""
        drifts = []
        for i, label in enumerate(names):
            share, shift, p = share_test(
                int(reference[:, i].sum()), len(reference), int(current[:, i].sum()), len(current)
            )
            p = self.corrected(p, len(names))
            drifts.append(LabelDrift(label=label, **share._asdict(), shift=shift, p=p, drifted=self.drifted(p, shift)))
        return tuple(sorted(drifts, key=lambda drift: -abs(drift.shift)))


def compare_sketches(
    reference: Sketch, current: Sketch, alpha: float, min_shift: float
) -> tuple[tuple[OutputDrift, ...], tuple[ColumnDrift, ...]]:
    """Compare two sketches of a model: its outputs, and the pictures.

    Raises InputError if they summarize the outputs in different ways.
    """
    kinds = 1 + sum(3 if len(summary.labels[0]) else 2 for summary in reference.outputs.values())
    tests = DriftTests(kinds, alpha, min_shift)
    permutations = max(999, ceil(2 * kinds / alpha))  # the smallest possible p-value stays below alpha
    outputs = []
    for name, before in reference.outputs.items():
        after = current.outputs[name]
        if before.columns != after.columns:
            raise InputError(
                f"{name}: the sketch has the columns {', '.join(before.columns[:5])}, …, and the pictures have "
                f"{', '.join(after.columns[:5])}, …. Make a new sketch with `client drift MODEL FOLDER --save-sketch "
                "FILE`",
                code="drift.other_columns",
            )
        mmd2, p = mmd_test(before.values, after.values, permutations)
        p = tests.corrected(p, 1)
        labels = (reference.spec.heads.get(name) or reference.spec).labels if len(before.labels[0]) else ()
        outputs.append(
            OutputDrift(
                output=name,
                mmd2=mmd2,
                p=p,
                drifted=p < alpha,
                columns=tests.columns(before.columns, before.values, after.values),
                labels=tests.labels(labels, before.labels, after.labels),
            )
        )
    return tuple(outputs), tests.columns(PICTURE_COLUMNS, reference.pictures, current.pictures)


def furthest_pictures(reference: Sketch, current: Sketch) -> Iterator[tuple[int, float, str]]:
    """Yield the pictures furthest from the reference images.

    Each with its row in `current`, the share of reference images that lie closer, and what it differs by: the name of
    an output, or `pictures`.
    """
    names = [*reference.outputs, "pictures"]
    scores = np.stack(
        [
            *(remoteness(before.values, current.outputs[name].values) for name, before in reference.outputs.items()),
            remoteness(reference.pictures, current.pictures),
        ]
    )
    for row in np.argsort(-scores.max(axis=0), kind="stable")[:MAX_FURTHEST]:
        yield int(row), min(1.0, float(scores[:, row].max())), names[int(scores[:, row].argmax())]


def drift_report(
    runner: Runner,
    version: str,
    path: Path,
    reference: Sketch,
    current: Sketch,
    sample: PictureSample,
    alpha: float,
    min_shift: float,
) -> DriftReport:
    """Compare the answered pictures of a runner with its sketch. version: of a served model. path: of the sketch."""
    outputs, pictures = compare_sketches(reference, current, alpha, min_shift)
    tests: list[DriftTest] = [*outputs, *pictures]
    for output in outputs:
        tests += [*output.columns, *output.labels]
    return DriftReport(
        model=runner.spec.name,
        version=version,
        origin=runner.origin,
        sketch=f"{path} ({reference.source})",
        reference_images=reference.images,
        images=current.images,
        answered=sample.sampler.seen,
        failed=len(sample.errors),
        alpha=alpha,
        min_shift=min_shift,
        drifted=any(test.drifted for test in tests),
        outputs=outputs,
        pictures=pictures,
        furthest=tuple(
            FarPicture(path=sample.picture(row).name, row=row, closer=closer, by=by)
            for row, closer, by in furthest_pictures(reference, current)
        ),
    )
