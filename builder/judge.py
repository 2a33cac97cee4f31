"""Ask an artifact the same questions as its checkpoint, in every way that has been seen to go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.verdict import LIMITS, MIDDLE_BATCH, Comparison, Limits, Problem, Verdict, batch_sizes, compare, rounding
from model.errors import TritonkitError
from model.golden import Golden
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.tasks import task_of

_COLOURS = np.array([1.0, 0.6, 0.3], dtype=np.float32)
"""Red, green and blue are dimmed differently, so that swapped channels show even on grey pictures."""


def judge(
    reference: Runner,
    candidate: Runner,
    golden: Golden,
    max_batch: int,
    precision: str,
    recorded: Golden | None = None,
) -> Verdict:
    """Compare `candidate` with `reference` on the golden images, as `builder.verdict` describes.

    recorded: the sample that training left; the reference must still give the answers in it.
    """
    trial = _Trial(reference, candidate, golden, max_batch, LIMITS[precision])
    if (answers := trial.ask_at_every_batch_size()) is not None:
        trial.ask_in_another_order(answers)
        trial.ask_in_other_colours()
        trial.weigh_quality(answers)
    if recorded is not None and recorded.outputs:
        trial.recall_training(recorded)
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


def ask(runner: Runner, images: ImageArray, batch: int) -> Outputs:
    """Answers for N images in batches of exactly `batch`: the last one is filled up from the start."""
    count = len(images)
    places = np.arange(-(-count // batch) * batch) % count
    parts = [runner.infer(images[places[i : i + batch]]) for i in range(0, len(places), batch)]
    names = [output.name for output in runner.spec.outputs if output.name in parts[0]]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}


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
        self.expected = ask(self.reference, self.golden.images, min(8, self.max_batch))
        expected = np.concatenate([array.reshape(len(array), -1) for array in self.expected.values()], axis=1)
        if not np.isfinite(expected).all():
            self._refuse("reference", "the checkpoint itself answers NaN or infinity: nothing can be proven with it")
        elif (np.abs(expected - expected[0]) <= 2 * rounding(expected)).all():
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
            self._refuse("batch", _failed_sizes(failed, batch_sizes(self.max_batch)))
            return None
        return answers

    def ask_in_another_order(self, answers: Outputs) -> None:
        """The same images, back to front: each must get the answer it got before."""
        backwards = self._asked("other order", self.golden.images[::-1], self.max_batch)
        if backwards is None:
            return
        moved = {name: array[::-1] for name, array in backwards.items()}
        if not self._fits("other order", answers, moved):
            return
        change = compare("other order", self.task, answers, moved)
        self.comparisons.append(change)
        if not (change.max_abs <= self.limits.max_abs and change.relative <= self.limits.relative):
            self._refuse(
                "batch_position",
                f"the answer depends on the place in the batch: the same image's values move by {change.max_abs:.1e} "
                f"when a batch of {self.max_batch} is asked in another order",
            )

    def ask_in_other_colours(self) -> None:
        """Grey pictures would hide swapped channels."""
        probes = in_other_colours(self.golden.images)
        size = min(MIDDLE_BATCH, self.max_batch)
        if (answers := self._asked("other colours", probes, size)) is not None:
            self._compared("other colours", ask(self.reference, probes, size), answers)

    def weigh_quality(self, answers: Outputs) -> None:
        """Accuracy and the like, where the truth is known."""
        if self.golden.targets is None:
            return
        before = self.task.quality(self.expected, self.golden.targets)
        after = self.task.quality(answers, self.golden.targets)
        self.quality = {"checkpoint": before, "artifact": after}
        if self.task.decisions_kept(self.expected, answers).all():
            return  # a tie that was broken the other way
        for name, value in before.items():
            if value - after[name] > self.limits.quality:
                self._refuse("quality", f"{name} falls from {value:.4f} to {after[name]:.4f}")

    def recall_training(self, recorded: Golden) -> None:
        """The checkpoint must still answer as the trained model did."""
        now = {}
        if recorded.images.shape[1:] == self.reference.spec.input.shape:
            now = ask(self.reference, recorded.images, min(8, self.max_batch))
        if {k: v.shape for k, v in recorded.outputs.items()} != {k: v.shape for k, v in now.items()}:
            self._refuse("training", "the golden sample beside the checkpoint is of another model")
            return
        drift = compare("training", self.task, recorded.outputs, now)
        self.comparisons.append(drift)
        # The trained model may have answered on a GPU, so decisions count and small differences do not.
        if drift.decisions_kept < 1 or not drift.relative <= 100 * self.limits.relative:
            self._refuse(
                "training",
                f"the checkpoint does not give the answers recorded when it was trained (error {drift.max_abs:.1e}, "
                f"{drift.decisions_kept:.0%} of decisions kept): weights or golden sample were changed since",
            )

    def _compared(self, asked: str, expected: Outputs, actual: Outputs) -> bool:
        """Compare, note problems, and tell whether the answers could be compared at all."""
        if not self._fits(asked, expected, actual):
            return False
        comparison = compare(asked, self.task, expected, actual)
        self.comparisons.append(comparison)
        if not (comparison.max_abs <= self.limits.max_abs and comparison.relative <= self.limits.relative):
            self._refuse(
                "numbers",
                f"{asked}: values differ by up to {comparison.max_abs:.1e} (limit {self.limits.max_abs:.0e}), "
                f"relative {comparison.relative:.1e} (limit {self.limits.relative:.0e})",
            )
        if comparison.decisions_kept < self.limits.decisions:
            self._refuse("decisions", f"{asked}: {1 - comparison.decisions_kept:.0%} of images change their answer")
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


def _failed_sizes(failed: dict[int, str], sizes: list[int]) -> str:
    works = [str(size) for size in sizes if size not in failed]
    reason = next(iter(failed.values()))
    if not works:
        return f"cannot be run: {reason}"
    broken = ", ".join(map(str, failed))
    return f"the batch axis is fixed: answers a batch of {', '.join(works)}, but not of {broken} ({reason})"
