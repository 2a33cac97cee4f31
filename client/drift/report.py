"""Compares pictures with a sketch: which outputs, labels and properties of the pictures moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.drift.sketching import PictureSample
from client.drift.statistics import ks_tests, mmd_test, remoteness, share_test
from tritonkit.runtimes.base import Runner
from tritonkit.sketch import PICTURE_COLUMNS, Sketch
from tritonkit.spec import Frozen

MAX_FURTHEST = 24


class Change(Frozen):
    """The result of a test."""

    p: float
    """Corrected for the number of tests."""
    moved: bool
    """Whether the change is significant and large enough."""


class ColumnDrift(Change):
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


class LabelDrift(Change):
    """The share of images whose answer has a label, of the reference images and of the pictures."""

    label: str
    reference: float
    current: float
    low: float
    """Bounds of the change, at 95 %."""
    high: float
    shift: float
    """Half of Cohen's h."""


class OutputDrift(Change):
    """The answers of one head; `p` and `moved` are those of the MMD."""

    output: str
    mmd2: float
    """The squared maximum mean discrepancy of all columns together."""
    columns: tuple[ColumnDrift, ...]
    """The most different first."""
    labels: tuple[LabelDrift, ...]
    """The most changed first."""


class FarPicture(Frozen):
    """A picture far from all reference images."""

    path: str
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
        """Sentences about what moved; empty without drift."""
        sentences = []
        for output in self.outputs:
            for label in output.labels:
                if label.moved:
                    name = label.label if len(self.outputs) == 1 else f"{output.output} {label.label}"
                    more = "more" if label.shift > 0 else "fewer"
                    sentences.append(
                        f"{name}: {more} answers, {label.current:.1%} instead of {label.reference:.1%} "
                        f"(change {label.low * 100:+.1f} to {label.high * 100:+.1f} points)"
                    )
            moved = [column.name for column in output.columns if column.moved]
            if moved or output.moved:
                names = f" of {', '.join(moved[:5])}{', …' if len(moved) > 5 else ''}" if moved else " as a whole"
                sentences.append(f"{output.output}: the distribution{names} changed (MMD p = {output.p:.2g})")
        for column in self.pictures:
            if column.moved:
                sentences.append(
                    f"pictures: the {column.name} is {column.current:.1f} instead of {column.reference:.1f}"
                )
        return sentences


@dataclass(frozen=True)
class Comparison:
    """How samples are compared. All tests together raise a false alarm with a probability of at most `alpha`.

    For that, a p-value is multiplied by the number of tests of its kind and by the number of kinds (Bonferroni).
    """

    kinds: int
    alpha: float
    min_shift: float

    def corrected(self, p: float, tests: int) -> float:
        """The p-value corrected for the number of tests."""
        return min(1.0, p * tests * self.kinds)

    def moved(self, p: float, shift: float) -> bool:
        """Whether a change is significant, and large enough to matter."""
        return p < self.alpha and abs(shift) >= self.min_shift

    def columns(
        self, names: tuple[str, ...], reference: NDArray[Any], current: NDArray[Any]
    ) -> tuple[ColumnDrift, ...]:
        """Compare the columns of two samples."""
        drifts = []
        for i, (distance, p) in enumerate(ks_tests(reference, current)):
            p = self.corrected(p, len(names))
            means = float(reference[:, i].mean(dtype=np.float64)), float(current[:, i].mean(dtype=np.float64))
            moved = self.moved(p, distance)
            drifts.append(
                ColumnDrift(
                    name=names[i], number=i, reference=means[0], current=means[1], distance=distance, p=p, moved=moved
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
            drifts.append(LabelDrift(label=label, **share._asdict(), shift=shift, p=p, moved=self.moved(p, shift)))
        return tuple(sorted(drifts, key=lambda drift: -abs(drift.shift)))


def compare_sketches(
    reference: Sketch, current: Sketch, alpha: float, min_shift: float
) -> tuple[tuple[OutputDrift, ...], tuple[ColumnDrift, ...]]:
    """Compare two sketches of a model: its outputs, and the pictures."""
    kinds = 1 + sum(3 if len(summary.labels[0]) else 2 for summary in reference.outputs.values())
    comparison = Comparison(kinds, alpha, min_shift)
    permutations = max(999, ceil(2 * kinds / alpha))  # the smallest possible p-value stays below alpha
    outputs = []
    for name, before in reference.outputs.items():
        after = current.outputs[name]
        mmd2, p = mmd_test(before.values, after.values, permutations)
        p = comparison.corrected(p, 1)
        labels = (reference.spec.heads.get(name) or reference.spec).labels if len(before.labels[0]) else ()
        outputs.append(
            OutputDrift(
                output=name,
                mmd2=mmd2,
                p=p,
                moved=p < alpha,
                columns=comparison.columns(before.columns, before.values, after.values),
                labels=comparison.labels(labels, before.labels, after.labels),
            )
        )
    return tuple(outputs), comparison.columns(PICTURE_COLUMNS, reference.pictures, current.pictures)


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
    tests: list[Change] = [*outputs, *pictures]
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
        drifted=any(test.moved for test in tests),
        outputs=outputs,
        pictures=pictures,
        furthest=tuple(
            FarPicture(path=sample.picture(row).name, closer=closer, by=by)
            for row, closer, by in furthest_pictures(reference, current)
        ),
    )
