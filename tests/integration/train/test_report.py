"""`train report`: one page about a run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from tests.fixture_types import Command
from train.config.loading import load_config
from train.engine.fit import FitResult, fit, resume
from train.engine.run_folder import RunFolder
from train.engine.run_report import write_report
from train.evaluate import evaluate
from train.reports.evaluation import RunEvaluation


class Text(HTMLParser):
    """The text of a page, and the tags in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words += data.split()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read_evaluation(run: Path) -> RunEvaluation:
    evaluation = RunEvaluation.read(run / "evaluation.json")
    assert evaluation is not None
    return evaluation


@pytest.fixture
def copied(trained: FitResult, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may change."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


def test_training_leaves_a_page_with_the_figures_of_train_test(trained: FitResult) -> None:
    measured = evaluate(trained.checkpoint)
    correct = round((measured.metrics["accuracy"] or 0) * measured.images)

    assert trained.report == trained.run / "report.html"
    page = Text(trained.report).text
    assert f"{correct} of {measured.images} test images are recognised correctly" in page
    for name, value in measured.metrics.items():
        assert f"{value:.4f}" in page, name
    assert not re.search(r'(src|href)="(?!data:)', trained.report.read_text())  # one file, nothing else to load


def test_kept_figures_are_those_of_the_test_part(run: FitResult) -> None:
    measured, kept = evaluate(run.checkpoint), read_evaluation(run.run)

    assert kept.metrics == measured.metrics
    assert (kept.part, kept.images, kept.labels) == ("test", measured.images, measured.classes)
    for name, interval in kept.intervals.items():
        assert 0 <= interval.low <= kept.metrics[name] <= interval.high <= 1, name
    assert kept.monitor in kept.intervals
    for matrix in kept.confusion.values():
        if matrix.unit == "images" and matrix.truths == matrix.answers:
            assert sum(count for *_, count in matrix.cells) == kept.images
    page = Text(run.report)
    assert f"{kept.metrics[kept.monitor]:.4f}" in page.text
    assert page.tags.count("img") == len(kept.worst) + 2  # batches and predictions


def test_intervals_match_their_formulas_when_computed_apart(trained: FitResult) -> None:
    kept = read_evaluation(trained.run)
    correct, images = kept.counts["accuracy"]
    z, share = norm.ppf(0.975), correct / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    (confusion,) = kept.confusion.values()
    truths = np.array([row for row, _, count in confusion.cells for _ in range(count)])
    answers = np.array([column for _, column, count in confusion.cells for _ in range(count)])
    f1 = []
    draw = np.random.default_rng(7)
    for _ in range(4000):
        chosen = draw.integers(0, images, images)
        truth, answer = truths[chosen], answers[chosen]
        each = [2 * ((truth == n) & (answer == n)).sum() / ((truth == n).sum() + (answer == n).sum()) for n in range(3)]
        f1.append(np.mean(each))

    accuracy, macro_f1 = kept.intervals["accuracy"], kept.intervals["macro_f1"]

    assert (accuracy.method, macro_f1.method) == ("Wilson", "bootstrap")
    assert (accuracy.low, accuracy.high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert (macro_f1.low, macro_f1.high) == pytest.approx(np.percentile(f1, (2.5, 97.5)), abs=0.02)


def test_report_prints_intervals_and_writes_the_page_when_a_checkpoint_is_given(
    command: Command, trained: FitResult, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"

    result = command("train", "report", trained.checkpoint, "--html", page)
    document = json.loads(command("train", "report", trained.run, "--html", page, "--json").stdout)

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == str(page)
    accuracy = document["metrics"]["accuracy"]
    assert f"{accuracy['low']:.4f} to {accuracy['high']:.4f}" in result.stdout
    assert (document["finished"], document["part"], document["report"]) == (True, "test", str(page))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]


def test_report_shows_the_curves_so_far_when_the_run_is_not_finished(copied: Path) -> None:
    (copied / "best.safetensors").unlink()
    lines = (copied / "metrics.csv").read_text().splitlines()
    (copied / "metrics.csv").write_text("\n".join(lines[:4]) + "\n")

    report = write_report(RunFolder(copied))

    page = Text(report.report)
    assert (report.finished, report.metrics) == (False, {})
    assert "This run is not finished" in page.text
    assert f"train resume {copied}" in page.text
    assert "3 of 8 epochs" in page.text
    assert page.tags.count("polyline") >= 4  # two losses, a metric, the learning rate


def test_report_says_what_is_missing_when_an_older_version_made_the_run(copied: Path) -> None:
    for name in ("evaluation.json", "batches.png", "metrics.csv"):
        (copied / name).unlink()
    config = copied / "config.yaml"
    config.write_text(config.read_text() + "\nkey_of_another_version: https://me:secret@example.org/a.csv\n")

    report = write_report(RunFolder(copied))

    page = Text(report.report)
    assert report.metrics["accuracy"].low is None
    assert f"{report.metrics['accuracy'].value:.4f}" in page.text
    assert "No evaluation of the best network" in page.text
    assert "https://example.org/a.csv" in page.text
    assert "secret" not in page.text
    assert page.tags.count("img") == 2  # predictions, and the confusion matrix of val


def test_report_uses_val_and_says_so_when_there_is_no_test_part(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    for label, name in (("0", "<script>alert(1)"), ("1", 'a "quoted" & {{ label }}'), ("7", "Größe")):
        (folder / label).rename(folder / name)
    config = write_config(
        tmp_path / "config.yaml", folder, data={"path": str(folder), "val_ratio": 0.3, "test_ratio": 0}
    )

    result = fit(load_config(config))

    assert result.report is not None
    page = Text(result.report)
    assert "There is no test part" in page.text
    assert read_evaluation(result.run).part == "val"
    assert "script" not in page.tags
    assert "<script>alert(1)" in page.text
    assert 'a "quoted" & {{ label }}' in page.text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere"], "run.not_a_run"),
        (["."], "run.not_a_run"),
        (["run", "--html", "page.pdf"], "output.not_html"),
        (["run", "--html", "run"], "output.is_folder"),
        (["run", "--html", "run/config.yaml/page.html"], "output.not_writable"),
        (["broken"], "run.broken_evaluation"),
    ],
)
def test_report_names_the_fault_when_the_input_is_bad(
    command: Command, copied: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: str
) -> None:
    broken = copied.parent / "broken"
    if words == ["broken"]:
        copied.rename(broken)
        (broken / "evaluation.json").write_text('{"part": "test"}')
    monkeypatch.chdir(copied.parent)

    result = command("train", "report", *words, "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == code
    assert len(result.stderr.splitlines()) == 1


def test_training_ends_well_when_the_page_cannot_be_written(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", folder))
    first = fit(config)
    assert first.report is not None
    first.checkpoint.unlink()
    for name in ("report.html", "evaluation.json"):
        (first.run / name).unlink()
        (first.run / name).mkdir()

    again = resume(first.run)

    assert again.checkpoint.is_file()
    assert again.report is None
    error = capfd.readouterr().err
    assert "evaluation.json: not written" in error
    assert "report.html: not written" in error
