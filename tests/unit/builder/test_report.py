"""The page of a verdict, for every task and result."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.sources.images import builtin_golden
from builder.verification.report import LIMIT_PERCENT, bar, render_page, state_of, write_page
from builder.verification.report_images import MAX_UNCHANGED_IMAGES, ReportAnswers, report_images
from builder.verification.report_images import collect_answers as collect_report_answers
from builder.verification.verifier import verify_runner
from tests import task_specs
from tests.fixture_types import NetworkOf
from tests.html_pages import Balanced
from tritonkit.comparison import Comparison, infer_in_batches
from tritonkit.comparison_inputs import with_changed_colors
from tritonkit.errors import Problem
from tritonkit.images.preprocess import ImageArray
from tritonkit.pages.contact_sheet import thumbnail
from tritonkit.repository.verdict import LIMITS, Attempt, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_of

ESCAPED = TaskSpec(task="multiclass", labels=("<b>cat</b>", "dog", "bird"))
TASK_SPECS = {**task_specs.TASK_SPECS, "multiclass": ESCAPED}
PASSED = Verdict(passed=True, precision="fp16", images="9 pictures", max_batch=4, limits=LIMITS["fp16"])


@pytest.fixture
def collect_answers(network_of: NetworkOf) -> Callable[..., ReportAnswers]:
    """A function that collects a network's outputs for the built-in photographs, and changed ones as the artifact's."""

    def collect(task_spec: TaskSpec, change: Callable[[Outputs], Outputs] | None = None) -> ReportAnswers:
        network = network_of(task_spec)
        golden = builtin_golden(network.spec.preprocess)
        expected = infer_in_batches(TorchRunner(network, origin="x"), golden.images, 4)
        copied = {name: array.copy() for name, array in expected.items()}
        return ReportAnswers(golden, task_of(network.spec), expected, change(copied) if change else copied)

    return collect


def with_moved_answers(outputs: Outputs) -> Outputs:
    """Change class, set of labels, direction and mask of the first two images."""
    for array in outputs.values():
        array[:2] = 1 - array[:2] if array.dtype == np.uint8 else np.roll(array[:2], 1, axis=-1)
    return outputs


@pytest.mark.parametrize("task", TASK_SPECS)
def test_page_shows_both_answers_of_changed_images_when_some_changed(
    task: str, collect_answers: Callable[..., ReportAnswers]
) -> None:
    answers = collect_answers(TASK_SPECS[task], with_moved_answers)
    images = report_images(answers, LIMITS["fp32"])
    assert images is not None
    assert images.lost
    assert images.lost <= set(range(9))
    changed = [tile for tile in images.tiles if tile.changed]
    assert {tile.name for tile in changed} == {f"image {number + 1}" for number in images.lost}
    assert images.tiles[: len(changed)] == tuple(changed)
    first = next(tile for tile in changed if tile.name in ("image 1", "image 2"))
    assert first.expected != first.actual
    assert len(first.pictures) == (3 if task == "segmentation" else 1)
    page = render_page("asked", PASSED.model_copy(update={"limits": LIMITS["fp32"]}), answers)
    Balanced(page)
    assert page.count("<figure") == len(images.tiles)
    assert "<b>cat</b>" not in page


def test_page_is_self_contained_and_well_formed(collect_answers: Callable[..., ReportAnswers], tmp_path: Path) -> None:
    write_page(
        tmp_path / "verdict.html", "asked", PASSED, collect_answers(TASK_SPECS["heads"]), {"Source": "a test & more"}
    )
    page = (tmp_path / "verdict.html").read_text()
    Balanced(page)
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page)
    assert "a test &amp; more" in page
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.html"]


def test_page_shows_a_real_verdict(network_of: NetworkOf) -> None:
    network = network_of(TASK_SPECS["multiclass"])
    runner = TorchRunner(network, origin="x")
    golden = builtin_golden(network.spec.preprocess)
    answers = collect_report_answers(runner, runner, golden, 4)
    page = render_page("asked", verify_runner(runner, runner, golden, 4, "fp32"), answers)
    Balanced(page)
    for part in ("batch 1", "batch 3", "batch 4", "other order", "other colours", "9 of 9", "No images change their"):
        assert part in page


def test_largest_errors_are_shown_when_no_answer_changed(collect_answers: Callable[..., ReportAnswers]) -> None:
    def shifted(outputs: Outputs) -> Outputs:
        steps = np.linspace(1e-6, 9e-6, 9, dtype=np.float32)[:, None]
        return {name: array + steps for name, array in outputs.items()}

    images = report_images(collect_answers(TASK_SPECS["multiclass"], shifted), LIMITS["fp32"])
    assert images is not None
    assert not images.lost
    assert [tile.name for tile in images.tiles] == [
        f"image {number}" for number in range(9, 9 - MAX_UNCHANGED_IMAGES, -1)
    ]


def test_image_counts_as_changed_when_its_output_is_nan(collect_answers: Callable[..., ReportAnswers]) -> None:
    def broken(outputs: Outputs) -> Outputs:
        outputs["probabilities"][3, 0] = np.nan
        return outputs

    images = report_images(collect_answers(TASK_SPECS["multiclass"], broken), LIMITS["fp32"])
    assert images is not None
    assert images.lost == {3}
    assert images.tiles[0].actual == ("NaN or infinity",)
    assert math.isinf(images.distances[3])


@pytest.mark.parametrize("actual", [None, {}, {"probabilities": np.zeros((9, 5), np.float32)}])
def test_page_has_no_images_when_outputs_cannot_be_compared(
    actual: Outputs | None, collect_answers: Callable[..., ReportAnswers]
) -> None:
    collected = collect_answers(TASK_SPECS["multiclass"])
    refused = Verdict(
        passed=False,
        precision="fp32",
        images="none",
        max_batch=4,
        limits=LIMITS["fp32"],
        problems=(Problem(code="interface", message="has no output 'probabilities' <here>"),),
    )
    page = render_page("asked", refused, ReportAnswers(collected.golden, collected.task, collected.expected, actual))
    Balanced(page)
    assert "<figure" not in page
    assert "&lt;here&gt;" in page
    assert "failed" in page


def test_answers_are_none_when_the_candidate_cannot_answer(network_of: NetworkOf) -> None:
    right, wrong = (TorchRunner(network_of(TASK_SPECS["multiclass"], side), origin="x") for side in (32, 64))
    golden = builtin_golden(right.spec.preprocess)
    assert collect_report_answers(right, wrong, golden, 4).actual is None


class Fickle(Runner):
    """Runs another runner, but changes the class of one image in batches of 1, and of another in changed colours."""

    def __init__(self, runner: Runner, alone: ImageArray, coloured: ImageArray) -> None:
        self.spec, self.origin = runner.spec, "fickle"
        self._runner, self._alone, self._coloured = runner, alone, coloured

    def _infer(self, batch: ImageArray) -> Outputs:
        answers = {name: array.copy() for name, array in self._runner.infer(batch).items()}
        for place, image in enumerate(batch):
            if np.array_equal(image, self._coloured) or (len(batch) == 1 and np.array_equal(image, self._alone)):
                answers["probabilities"][place] = np.roll(answers["probabilities"][place], 1)
        return answers


def test_page_shows_an_image_that_changed_only_in_a_smaller_batch(network_of: NetworkOf) -> None:
    network = network_of(TASK_SPECS["multiclass"])
    runner, golden = TorchRunner(network, origin="x"), builtin_golden(network.spec.preprocess)
    coloured = with_changed_colors(golden.images)[5]
    fickle = Fickle(runner, golden.images[2], coloured)
    verdict = verify_runner(runner, fickle, golden, 4, "fp32")
    assert not verdict.passed
    answers = collect_report_answers(runner, fickle, golden, 4)
    names = ["batch 1", "batch 3", "batch 4", "other order", "other colours"]
    assert [batch.inputs.name for batch in answers.batches] == [*names, "batch 2", "probes"]
    images = report_images(answers, LIMITS["fp32"])
    assert images is not None
    assert not images.lost
    changed = [tile for tile in images.tiles if tile.changed]
    assert [tile.name for tile in changed] == ["image 3, batch 1", "image 6, other colours"]
    assert all(tile.expected != tile.actual for tile in changed)
    assert changed[1].pictures[0][0] == thumbnail(Image.fromarray(coloured))
    page = render_page("asked", verdict, answers)
    Balanced(page)
    assert "2 images change their answer" in page


def test_page_shows_attempts_and_quality() -> None:
    reason = Problem("verdict.nan", "batch 1: output holds NaN")
    tries = (
        Attempt(precision="fp16", how="everything", passed=False, nodes=20, seconds=1.5, problems=(reason,)),
        Attempt(precision="fp32", how="the whole model", passed=True, kept=("node_7",), max_abs=1e-6, seconds=2),
    )
    options = " on 100 pictures of val.csv"
    quality = {
        f"checkpoint{options}": {"accuracy": 0.9, "f1/cat": 0.8},
        f"artifact{options}": {"accuracy": 0.85, "f1/cat": 0.8},
    }
    verdict = PASSED.model_copy(update={"asked": "fp16", "precision": "fp32", "tries": tries, "quality": quality})
    page = render_page("asked", verdict)
    Balanced(page)
    for part in (
        "fp16 was requested, fp32 passed",
        "3.5 s in total",
        "output holds NaN",
        "node_7",
        "100 pictures of val.csv",
        "-0.0500",
        "by class: 1 metrics",
    ):
        assert part in page


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "passed"),
        ({"asked": "fp16"}, "passed"),
        ({"asked": "int8"}, "repaired"),
        ({"tries": (Attempt(precision="fp16", how="all", passed=False, seconds=1),)}, "repaired"),
        ({"passed": False}, "failed"),
        ({"passed": False, "forced": True}, "forced"),
    ],
)
def test_headline_shows_the_result(changes: dict[str, object], state: str) -> None:
    verdict = PASSED.model_copy(update=changes)
    assert state_of(verdict) == state
    assert f'<span class="pill">{state}</span>' in render_page("asked", verdict)


def test_headline_has_no_relative_error_when_every_error_is_negligible() -> None:
    sure = Comparison(
        asked="batch 1",
        images=9,
        max_abs=5e-8,
        mean_abs=0,
        p99_abs=0,
        relative=0.7,
        decisions_kept=1,
        agreement={},
    )
    assert sure.is_within(PASSED.limits)
    description = "<span>relative error, limit"
    assert description not in render_page("asked", PASSED.model_copy(update={"comparisons": (sure,)}))
    counted = sure.model_copy(update={"asked": "batch 3", "max_abs": 1e-3, "relative": 0.01})
    page = render_page("asked", PASSED.model_copy(update={"comparisons": (sure, counted)}))
    assert f"<b>1.0e-02</b>{description}" in page


def test_bar_ends_at_the_mark_when_the_error_is_the_limit() -> None:
    assert bar(0.02, 0.02).percent == pytest.approx(LIMIT_PERCENT)
    assert [bar(value, 0.02).grade for value in (0, 0.001, 0.019, 0.021, math.nan, math.inf)] == [
        "good",
        "good",
        "near",
        "bad",
        "bad",
        "bad",
    ]
    assert bar(0, 0) == (0, 0, "good")
    assert bar(0.1, math.inf) == (0.1, 0, "good"), "without a limit"
    assert bar(1e-9, 0).percent == 100
    assert 0 < bar(1e-30, 0.02).percent < bar(1e-5, 0.02).percent < LIMIT_PERCENT < bar(1e9, 0.02).percent == 100


@pytest.mark.parametrize(("exact", "part"), [(True, "adds int8 products exactly"), (False, "at 16 bits")])
def test_page_names_the_kind_of_cpu_that_verified_int8(exact: bool, part: str) -> None:
    assert "On a CPU that" not in render_page("asked", PASSED)
    page = render_page("asked", PASSED.model_copy(update={"precision": "int8", "exact_int8": exact}))
    Balanced(page)
    assert part in page
