"""Ask an artifact the same questions as its checkpoint, in every way that has been seen to go wrong."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.proving.verdict import LIMITS, OF_TRAINING, Verdict
from builder.targets import Precision
from model.comparison import (
    Comparison,
    Limits,
    ask,
    batch_sizes,
    compare,
    errors_by_image,
    possible,
    rounding,
    rows_of,
)
from model.errors import Problem, TritonkitError
from model.golden import Golden
from model.runners.base import Outputs, Runner
from model.tasks import task_of
from model.ways import Way, backwards_way, colours_way, even_batch, probes_way, ways_between, whole_ways


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
    preferred: Collection[int] = (),
) -> Verdict:
    """Compare `candidate` with `reference` on the golden images, as `builder.proving.verdict` describes.

    training: where given, the checkpoint must still answer as it did then.
    limits: in place of the usual ones of the precision.
    preferred: batch sizes that the model will be served at, besides the powers of two.
    """
    trial = _Verification(reference, candidate, golden, max_batch, limits or LIMITS[precision])
    if (answers := trial.ask_at_every_batch_size()) is not None:
        trial.ask_in_another_order(answers)
        trial.ask_in_other_colours()
        trial.look_for_faults(answers)
        trial.check_quality(answers)
        if not trial.problems:  # else they would say nothing new, at the same cost
            trial.ask_at_sizes_between(preferred)
            trial.ask_on_probes()
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
        notes=tuple(trial.notes),
    )


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


@dataclass
class _Verification:
    reference: Runner
    candidate: Runner
    golden: Golden
    max_batch: int
    limits: Limits
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
        for way in whole_ways(self.golden, self.max_batch):
            try:
                answers = way.ask(self.candidate)
            except TritonkitError as error:
                failed[way.batch] = str(error)
                continue
            if not self._compared(way, self._expected(way), answers):
                return None
        if failed or answers is None:
            self._refuse("batch", _failed_sizes(failed, batch_sizes(self.max_batch), self.candidate.max_batch))
            return None
        return {name: array[: len(self.golden.images)] for name, array in answers.items()}

    def ask_at_sizes_between(self, preferred: Collection[int]) -> None:
        """One batch of each size that a server may put together, besides those that all images were asked at."""
        for way in ways_between(self.golden, self.max_batch, preferred):
            if (answers := self._answered(way)) is not None:
                self._compared(way, self._expected(way), answers)

    def ask_on_probes(self) -> None:
        """Synthetic pictures, whose answers in the checkpoint are the truth."""
        way = probes_way(self.golden, self.max_batch)
        right, answers = self._expected(way), self._answered(way)
        known = possible(self.task, right)
        if not known.all():
            titles = ", ".join(title for title, good in zip(way.titles, known, strict=True) if not good)
            self.notes.append(f"the checkpoint itself gives no possible answer for {titles}: NaN, infinity or the like")
        if answers is None or not known.any():
            return
        kept = np.flatnonzero(known)
        way, right, answers = way.only(kept), rows_of(right, kept), rows_of(answers, kept)
        if self._compared(way, right, answers, self.limits.of_probes()):
            for fault in self.task.faults(answers):
                self._refuse("answers", f"{way.name}: {fault}")

    def ask_in_another_order(self, answers: Outputs) -> None:
        """The same images, back to front: each must get the answer it got before."""
        way = backwards_way(self.golden, self.max_batch)
        moved, before = self._answered(way), way.expected(self.candidate, answers)
        if moved is None or not self._fits(way, before, moved):
            return
        change = compare(way.name, self.task, before, moved, way.geometries, self.limits)
        self.comparisons.append(change)
        if not change.within(self.limits) or change.decisions_kept < self.limits.decisions:
            self._refuse(
                "batch_position",
                f"the answer depends on the place in the batch: the same image's values move by {change.max_abs:.1e}, "
                f"{change.decisions_kept:.0%} of decisions are kept, when a batch of {way.batch} is asked in "
                "another order",
            )

    def ask_in_other_colours(self) -> None:
        """Grey pictures would hide swapped channels."""
        way = colours_way(self.golden, self.max_batch)
        if (answers := self._answered(way)) is not None:
            self._compared(way, self._expected(way), answers)

    def look_for_faults(self, answers: Outputs) -> None:
        """What no answer of this task can be, whatever the checkpoint says."""
        for fault in self.task.faults(answers):
            self._refuse("answers", fault)

    def check_quality(self, answers: Outputs) -> None:
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

    def _expected(self, way: Way) -> Outputs:
        return way.expected(self.reference, self.expected)

    def _compared(self, way: Way, expected: Outputs, actual: Outputs, limits: Limits | None = None) -> bool:
        """Compare, note problems, and tell whether the answers could be compared at all."""
        limits, before = limits or self.limits, len(self.problems)
        fits = self._fits(way, expected, actual)
        if fits:
            comparison = way.compared(self.task, expected, actual, self.expected, limits)
            self.comparisons.append(comparison)
            self._judge(way, comparison, limits, expected, actual)
        if not before and self.problems and way.numbers is not None:
            self._name_places(way, expected, actual)
        return fits

    def _judge(self, way: Way, found: Comparison, limits: Limits, expected: Outputs, actual: Outputs) -> None:
        if not found.within(limits):
            worst = way.titles[int(errors_by_image(expected, actual).argmax())]
            self._refuse(
                "numbers",
                f"{way.name}: values differ by up to {found.max_abs:.1e} (limit {limits.max_abs:.0e}), "
                f"relative {found.relative:.1e} (limit {limits.relative:.0e}), most for {worst}",
            )
        if found.decisions_kept < limits.decisions:
            reached = ", ".join(f"{name} {value:.4f}" for name, value in found.agreement.items())
            self._refuse(
                "decisions",
                f"{way.name}: {1 - found.decisions_kept:.0%} of images change their answer (mean {reached})",
            )

    def _name_places(self, way: Way, expected: Outputs, actual: Outputs) -> None:
        """Say which places of a batch are wrong, where the same images were right in a smaller one."""
        smaller = [one.asked for one in self.comparisons if one.asked != way.name and one.asked.startswith("batch")]
        if not smaller or any(problem.code == "interface" for problem in self.problems):
            return
        wrong = self._wrong(way, expected, actual)
        found = sorted({place % way.batch for place in np.flatnonzero(wrong).tolist()})
        if wrong.all():
            right = f"{', '.join(smaller)} {'is' if len(smaller) == 1 else 'are'} answered rightly"
            self._refuse("batch", f"every answer of a batch of {way.batch} is wrong, while {right}")
        elif found:
            self._refuse(
                "batch_position",
                f"in a batch of {way.batch} the answers at {_in_words(found)} are wrong, though the same images are "
                f"answered rightly at {smaller[0]}",
            )

    def _wrong(self, way: Way, expected: Outputs, actual: Outputs) -> NDArray[np.bool_]:
        """For each place whether its values are too far off; of class numbers alone, whether the decision changed."""
        far: NDArray[np.bool_] = ~(errors_by_image(expected, actual) <= self.limits.max_abs)
        if any(np.issubdtype(array.dtype, np.floating) for array in expected.values()):
            return far  # an agreement may be one between places, such as that of neighbours
        agreement = self.task.agreement(expected, actual, way.geometries, self.limits.tie)
        return ~self.task.decisions_kept(agreement, self.limits.slack)

    def _answered(self, way: Way) -> Outputs | None:
        try:
            return way.ask(self.candidate)
        except TritonkitError as error:
            self._refuse("run", f"{way.name}: {error}")
            return None

    def _fits(self, way: Way, expected: Outputs, actual: Outputs) -> bool:
        for name, array in expected.items():
            if (problem := _unfit(name, array, actual, way)) is not None:
                self.problems.append(problem)
                return False
        return True

    def _refuse(self, code: str, message: str) -> None:
        self.problems.append(Problem(code=code, message=message))


def _same_for_all(answers: NDArray[Any]) -> bool:
    """Does every image get the answer of the first, but for rounding? answers: [N, ...]."""
    values = answers.astype(np.float64)
    return bool((np.abs(values - values[0]) <= 2 * rounding(answers)).all())


def _unfit(name: str, expected: NDArray[Any], actual: Outputs, way: Way) -> Problem | None:
    if name not in actual:
        return Problem(code="interface", message=f"has no output {name!r}; it has {', '.join(actual)}")
    array = actual[name]
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return Problem(
            code="interface",
            message=f"{way.name}: output {name} is {array.dtype} {list(array.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}",
        )
    bad = np.logical_not(np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if bad.any():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        return Problem(
            code="nan",
            message=f"{way.name}: output {name} holds {kind} for {int(bad.sum())} of {len(bad)} images, "
            f"first for {way.titles[int(bad.argmax())]}",
        )
    return None


def _in_words(places: Sequence[int]) -> str:
    """Places counted from 0 as people count them: place 3, places 10 to 32, places 1, 4 and 2 more."""
    first, last = places[0] + 1, places[-1] + 1
    if len(places) == 1:
        return f"place {first}"
    if last - first + 1 == len(places):
        return f"places {first} to {last}"
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"places {', '.join(str(place + 1) for place in places[:3])}{more}"


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
