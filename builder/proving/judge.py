"""Ask an artifact the same questions as its checkpoint, in every way that has been seen to go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.proving.verdict import LIMITS, OF_TRAINING, Problem, Verdict
from builder.targets import Precision
from model.comparison import MIDDLE_BATCH, Comparison, Limits, ask, batch_sizes, compare, rounding
from model.errors import TritonkitError
from model.golden import Golden
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.tasks import task_of

_COLOURS = np.array([1.0, 0.6, 0.3], dtype=np.float32)
"""Red, green and blue are dimmed differently, so that swapped channels show even on grey pictures."""


@dataclass(frozen=True)
class Training:
    """What training left: the checkpoint asked as it was trained, and the sample with the answers given then."""

    reference: Runner
    recorded: Golden


def judge(
    reference: Runner,
    candidate: Runner,
    golden: Golden,
    max_batch: int,
    precision: Precision,
    training: Training | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Compare `candidate` with `reference` on the golden images, as `builder.proving.verdict` describes.

    training: where given, the checkpoint must still answer as it did then.
    limits: in place of the usual ones of the precision.
    """
    trial = _Trial(reference, candidate, golden, max_batch, limits or LIMITS[precision])
    if (answers := trial.ask_at_every_batch_size()) is not None:
        trial.ask_in_another_order(answers)
        trial.ask_in_other_colours()
        trial.look_for_faults(answers)
        trial.weigh_quality(answers)
    if training is not None and training.recorded.outputs:
        trial.recall(training)
    return Verdict(
        passed=not trial.problems,
        precision=precision,
        images=golden.source,
        max_batch=max_batch,
        limits=trial.limits,
        comparisons=tuple(trial.comparisons),
        quality=trial.quality,
        problems=tuple(trial.problems),
    )


def in_other_colours(images: ImageArray) -> ImageArray:
    """The images with red, green and blue dimmed differently, uint8 [N, H, W, 3]."""
    return (images * _COLOURS).astype(np.uint8)


def recalled(runner: Runner, recorded: Golden, batch: int) -> Outputs | None:
    """What a model answers now to a sample with recorded answers; None where these are another model's.

    batch: how many images are asked together.
    """
    if recorded.images.shape[1:] != runner.spec.input.shape:
        return None
    now = ask(runner, recorded.images, batch)
    same = {name: array.shape for name, array in now.items()} == {k: v.shape for k, v in recorded.outputs.items()}
    return now if same else None


def falls(before: Mapping[str, float], after: Mapping[str, float], most: float) -> Iterator[str]:
    """The figures of quality that fall by more than `most`, or are no number any more, each in words."""
    for name, value in before.items():
        if not (math.isnan(value) or value - after[name] <= most):
            yield f"{name} falls from {value:.4f} to {after[name]:.4f}"


def even_batch(count: int, max_batch: int) -> int:
    """The batch size up to 8 that leaves the fewest places to fill up: 9 images are asked as 5 and 5."""
    rounds = -(-count // min(8, max_batch))
    return -(-count // rounds)


@dataclass
class _Trial:
    reference: Runner
    candidate: Runner
    golden: Golden
    max_batch: int
    limits: Limits
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    quality: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task = task_of(self.reference.spec)
        self.geometries = self.golden.fitted
        self.expected = ask(self.reference, self.golden.images, even_batch(len(self.golden.images), self.max_batch))
        if not all(np.isfinite(array).all() for array in self.expected.values()):
            self._refuse("reference", "the checkpoint itself answers NaN or infinity: nothing can be proven with it")
        elif all(_same_for_all(array) for array in self.expected.values()):
            self._refuse(
                "reference",
                "the checkpoint gives every image the same answer, so a wrong graph would not show. Export trained "
                "weights, or give pictures that differ with --images",
            )

    def ask_at_every_batch_size(self) -> Outputs | None:
        """The answers of the largest batch, None when some size failed."""
        failed: dict[int, str] = {}
        answers = None
        for size in batch_sizes(self.max_batch):
            try:
                answers = ask(self.candidate, self.golden.images, size)
            except TritonkitError as error:
                failed[size] = str(error)
                continue
            if not self._compared(f"batch {size}", self.expected, answers):
                return None
        if failed:
            self._refuse("batch", _failed_sizes(failed, batch_sizes(self.max_batch), self.candidate.max_batch))
            return None
        return answers

    def ask_in_another_order(self, answers: Outputs) -> None:
        """The same images, back to front: each must get the answer it got before."""
        together = min(self.max_batch, len(self.golden.images))
        backwards = self._asked("other order", self.golden.images[::-1], together)
        if backwards is None:
            return
        moved = {name: array[::-1] for name, array in backwards.items()}
        if not self._fits("other order", answers, moved):
            return
        change = compare("other order", self.task, answers, moved, self.geometries, self.limits)
        self.comparisons.append(change)
        if not change.within(self.limits) or change.decisions_kept < self.limits.decisions:
            self._refuse(
                "batch_position",
                f"the answer depends on the place in the batch: the same image's values move by {change.max_abs:.1e}, "
                f"{change.decisions_kept:.0%} of decisions are kept, when a batch of {together} is asked in "
                "another order",
            )

    def ask_in_other_colours(self) -> None:
        """Grey pictures would hide swapped channels."""
        probes = in_other_colours(self.golden.images)
        size = min(MIDDLE_BATCH, self.max_batch)
        if (answers := self._asked("other colours", probes, size)) is not None:
            self._compared("other colours", ask(self.reference, probes, size), answers)

    def look_for_faults(self, answers: Outputs) -> None:
        """What no answer of this task can be, whatever the checkpoint says."""
        for fault in self.task.faults(answers):
            self._refuse("answers", fault)

    def weigh_quality(self, answers: Outputs) -> None:
        """Accuracy and the like, where the truth is known."""
        if not self.golden.targets:
            return
        before = self.task.quality(self.expected, self.golden.targets)
        after = self.task.quality(answers, self.golden.targets)
        self.quality = {"checkpoint": before, "artifact": after}
        kept = compare("quality", self.task, self.expected, answers, self.geometries, self.limits).decisions_kept
        if kept == 1:
            return  # a tie that was broken the other way
        for fall in falls(before, after, self.limits.quality):
            self._refuse("quality", fall)

    def recall(self, training: Training) -> None:
        """The checkpoint must still answer as the trained model did."""
        reference, recorded = training.reference, training.recorded
        now = recalled(reference, recorded, min(8, self.max_batch))
        if now is None:
            self._refuse("training", "the golden sample beside the checkpoint is of another model")
            return
        drift = compare(OF_TRAINING, task_of(reference.spec), recorded.outputs, now, recorded.fitted)
        self.comparisons.append(drift)
        # The trained model may have answered on a GPU, so decisions count and small differences do not.
        if drift.decisions_kept < 1 or not drift.relative <= 100 * LIMITS["fp32"].relative:
            self._refuse(
                "training",
                f"the checkpoint does not give the answers recorded when it was trained (error {drift.max_abs:.1e}, "
                f"{drift.decisions_kept:.0%} of decisions kept): weights or golden sample were changed since",
            )

    def _compared(self, asked: str, expected: Outputs, actual: Outputs) -> bool:
        """Compare, note problems, and tell whether the answers could be compared at all."""
        if not self._fits(asked, expected, actual):
            return False
        comparison = compare(asked, self.task, expected, actual, self.geometries, self.limits)
        self.comparisons.append(comparison)
        if not comparison.within(self.limits):
            self._refuse(
                "numbers",
                f"{asked}: values differ by up to {comparison.max_abs:.1e} (limit {self.limits.max_abs:.0e}), "
                f"relative {comparison.relative:.1e} (limit {self.limits.relative:.0e})",
            )
        if comparison.decisions_kept < self.limits.decisions:
            reached = ", ".join(f"{name} {value:.4f}" for name, value in comparison.agreement.items())
            self._refuse(
                "decisions",
                f"{asked}: {1 - comparison.decisions_kept:.0%} of images change their answer (mean {reached})",
            )
        return True

    def _asked(self, asked: str, images: ImageArray, batch: int) -> Outputs | None:
        try:
            return ask(self.candidate, images, batch)
        except TritonkitError as error:
            self._refuse("run", f"{asked}: {error}")
            return None

    def _fits(self, asked: str, expected: Outputs, actual: Outputs) -> bool:
        for name, array in expected.items():
            if (problem := _unfit(name, array, actual, asked)) is not None:
                self.problems.append(problem)
                return False
        return True

    def _refuse(self, code: str, message: str) -> None:
        self.problems.append(Problem(code=code, message=message))


def _same_for_all(answers: NDArray[Any]) -> bool:
    """Does every image get the answer of the first, but for rounding? answers: [N, ...]."""
    values = answers.astype(np.float64)
    return bool((np.abs(values - values[0]) <= 2 * rounding(answers)).all())


def _unfit(name: str, expected: NDArray[Any], actual: Outputs, asked: str) -> Problem | None:
    if name not in actual:
        return Problem(code="interface", message=f"has no output {name!r}; it has {', '.join(actual)}")
    array = actual[name]
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return Problem(
            code="interface",
            message=f"{asked}: output {name} is {array.dtype} {list(array.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}",
        )
    bad = np.logical_not(np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if bad.any():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        return Problem(
            code="nan",
            message=f"{asked}: output {name} holds {kind} for {int(bad.sum())} of {len(bad)} images, "
            f"first for image {int(bad.argmax())}",
        )
    return None


def _failed_sizes(failed: dict[int, str], sizes: list[int], most: int | None) -> str:
    """In words which of the sizes could not be asked; `most` is the largest that the candidate says it takes."""
    works = [str(size) for size in sizes if size not in failed]
    reason = next(iter(failed.values()))
    if not works:
        return f"cannot be run: {reason}"
    broken = ", ".join(map(str, failed))
    fixed = len(works) == 1 and (most is None or works == [str(most)])
    said = f"answers a batch of {', '.join(works)}, but not of {broken} ({reason})"
    return f"the batch axis is fixed: {said}" if fixed else said
