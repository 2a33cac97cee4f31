"""`train autolabel`: labels for pictures that have none, on real digits."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser import Browser, open_browser
from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.autolabel.pictures import read_decisions, read_pictures
from train.autolabel.result import AutolabelResult
from train.autolabel.rounds import AutolabelOptions, autolabel
from train.config.loading import load_config
from train.data.splits import read_splits
from train.tasks import training_task

OPTIONS = {"max_error": 0.2, "confidence": 0.6, "calibration": 0.45, "rounds": 2, "folds": 2, "round_epochs": 5}
WORDS = (
    *("--max-error", 0.2, "--confidence", 0.6, "--calibration", 0.45),
    *("--rounds", 2, "--folds", 2, "--round-epochs", 5),
)
TOO_WIDE = """[...document.querySelectorAll('.card, .decision, .bar, h1, p')]
    .filter(box => box.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""


@dataclass(frozen=True)
class Done:
    """A finished self-labelling, with its inputs; tests must not change it."""

    config: Path
    unlabelled: Path
    wrongly_labelled: tuple[Path, ...]
    result: AutolabelResult


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("autolabel")
    labelled, unlabelled = copy_digits(root / "data", count=60), copy_digits(root / "more", count=60, start=60)
    wrong = tuple((labelled / "0" / f"wrong-{path.name}") for path in sorted((labelled / "7").iterdir())[:2])
    for path in wrong:
        shutil.move(labelled / "7" / path.name.removeprefix("wrong-"), path)
    shutil.copy(sorted((labelled / "1").iterdir())[0], unlabelled / "copy.png")
    (unlabelled / "broken.png").write_text("no picture")
    config = write_config(root / "config.yaml", labelled, epochs=10)
    result = autolabel(load_config(config), AutolabelOptions(unlabelled=unlabelled, **OPTIONS))  # type: ignore[arg-type]
    return Done(config, unlabelled, wrong, result)


def test_labels_are_right_and_can_be_trained_on(done: Done) -> None:
    result, labels = done.result, rows_of(done.result.labels)

    assert result.unlabelled == 180  # without the copy and the broken file
    assert len(labels) == result.accepted == result.rounds[-1].accepted_so_far > 90
    wrong = sum(row["label"] != Path(row["image_path"]).parent.name for row in labels)
    assert wrong <= 0.2 * len(labels)
    assert {row["round"] for row in labels} <= {"1", "2"}
    confidences = [float(row["confidence"]) for row in labels if row["round"] == "1"]
    assert min(confidences) >= (result.rounds[0].threshold or 1) - 1e-6
    assert len(rows_of(result.folder / "doubtful.csv")) == 180 - len(labels)

    config = load_config(done.config, [f"data.path={result.labels}"])
    splits = read_splits(config.data, training_task(config), 0)
    assert len(splits.train) + len(splits.val) + len(splits.test) == len(labels)


def test_holdout_compares_with_all_given_labels(done: Done) -> None:
    result, comparison = done.result, done.result.comparison

    assert comparison is not None
    assert comparison.labels_alone.total == comparison.self_labelled.total == 36
    assert comparison.low <= comparison.gain <= comparison.high
    assert comparison.sentence() in result.conclusion
    assert result.error.low is not None
    assert result.error.low <= (result.error.value or 0) <= (result.error.high or 0)
    learned = {name: len(rows_of(result.folder / name / "data" / "train.csv")) for name in ("round-0", "labels-alone")}
    assert learned["round-0"] < learned["labels-alone"] == 108  # the calibration part
    everything = rows_of(result.folder / "self-labelled" / "data" / "train.csv")
    assert len(everything) == 108 + result.accepted
    assert not (result.folder / "round-0" / "data" / "test.csv").exists()
    runs = ("round-0", "labels-alone", "self-labelled")
    assert [len(rows_of(result.folder / name / "tiny" / "1" / "metrics.csv")) for name in runs] == [10, 10, 5]


def test_given_labels_that_are_wrong_are_listed(done: Done) -> None:
    suspects = rows_of(done.result.folder / "suspects.csv")
    listed = {row["image_path"]: row for row in suspects}

    found = [listed[str(path)] for path in done.wrongly_labelled if str(path) in listed]
    assert found
    assert {(row["label"], row["suggestion"]) for row in found} == {("0", "7")}
    assert done.result.suspects == len(suspects) < 20


def test_command_continues_to_the_same_result_and_refuses_other_settings(command: Command, done: Done) -> None:
    checkpoints = {path: path.stat().st_mtime_ns for path in done.result.folder.rglob("best.safetensors")}

    again = command("train", "autolabel", done.config, "--unlabelled", done.unlabelled, *WORDS, "--json")
    other = command("train", "autolabel", done.config, "epochs=11", "--unlabelled", done.unlabelled, *WORDS, "--json")

    assert again.exit_code == 0, again.output
    assert AutolabelResult.model_validate_json(again.stdout) == done.result
    assert {path: path.stat().st_mtime_ns for path in done.result.folder.rglob("best.safetensors")} == checkpoints
    assert other.exit_code == 2
    assert json.loads(other.stdout)["error"]["code"] == "experiment.other_settings"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def test_page_takes_decisions_and_exports_them_without_an_error(browser: Browser, done: Done, tmp_path: Path) -> None:
    page = done.result.page
    for width, dark in ((1280, False), (390, True)):
        browser.open(page, width, dark=dark)
        assert browser.problems == []
        assert browser.requests == [page.as_uri()]
        assert browser.evaluate(TOO_WIDE) == 0
    first = "document.querySelector('.decision')"
    path, label = browser.evaluate(f"[{first}.dataset.path, {first}.dataset.label]")
    browser.evaluate(f"{first}.focus(); 0")
    browser.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'})); 0")
    second = browser.evaluate("document.activeElement.dataset.path")
    browser.evaluate("document.activeElement.querySelector('button[data-choice=\"-\"]').click(); 0")

    browser.open(page, 1280)  # decisions are kept
    (tmp_path / "decisions.csv").write_text(browser.evaluate("table()"))
    browser.evaluate("document.getElementById('export').click(); 0")

    assert browser.problems == []
    assert browser.evaluate("document.getElementById('decided').textContent") == "2"
    assert read_decisions(tmp_path / "decisions.csv") == {Path(path).resolve(): label, Path(second).resolve(): ""}


def test_decisions_move_pictures_and_change_labels(done: Done) -> None:
    config, (wrong, other) = load_config(done.config), done.wrongly_labelled
    unlabelled = sorted((done.unlabelled / "1").iterdir())[:2]
    decisions = {wrong: "7", other: "", unlabelled[0]: "1", unlabelled[1]: ""}

    before = read_pictures(config, done.unlabelled, 0.3, {})
    after = read_pictures(config, done.unlabelled, 0.3, decisions)

    roles = {
        sample.path: sample.truth
        for part in (*(getattr(after.splits, name) for name in ("train", "val", "test")), after.calibration)
        for sample in part
    }
    assert (roles[wrong], roles[unlabelled[0]]) == ("7", "1")
    assert other not in roles
    assert set(before.unlabelled) - set(after.unlabelled) == set(unlabelled)
    assert {sample.path for sample in after.calibration} <= {sample.path for sample in before.calibration}
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["task=multilabel"], "autolabel.task"),
        (["data.test_ratio=0"], "autolabel.no_holdout"),
        (["--max-error", "0.02"], "autolabel.calibration_too_small"),
        (["--max-error", "0.2", "--calibration", "0.01"], "autolabel.calibration_split"),
        (["--threshold", "0.9", "--max-error", "0.02"], "option.exclusive"),
        (["--max-error", "2"], "option.out_of_range"),
        (["--folds", "1"], "option.out_of_range"),
        (["--unlabelled", "nowhere"], "autolabel.no_folder"),
        (["--unlabelled", "data"], "autolabel.nothing_to_label"),
        (["--decisions", "columns.csv"], "autolabel.decision_columns"),
        (["--decisions", "labels.csv"], "autolabel.decision_label"),
        (["--decisions", "paths.csv"], "autolabel.decision_picture"),
        (["--decisions", "missing.csv"], "table.unreadable"),
    ],
)
def test_command_is_refused_before_it_trains_when_the_input_is_bad(
    command: Command, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: str
) -> None:
    monkeypatch.chdir(done.config.parent)
    picture = next((done.unlabelled / "1").iterdir())
    Path("columns.csv").write_text("picture,label\na.png,1\n")
    Path("labels.csv").write_text(f"image_path,label\n{picture},9\n")
    Path("paths.csv").write_text("image_path,label\na.png,1\n")

    result = command(
        "train", "autolabel", done.config, "--unlabelled", "more", "--folder", tmp_path / "new", *words, "--json"
    )

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == code
    assert not (tmp_path / "new").exists()


@pytest.mark.drill
def test_killed_command_continues_without_training_again(done: Done, tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-m", "train.cli", "autolabel", str(done.config), "--unlabelled"]
    program += [str(done.unlabelled), "--threshold", "0.7", "--rounds", "1", "--folds", "0", "--folder", str(tmp_path)]
    checkpoint, second = (tmp_path / f"round-{number}" / "tiny" / "1" for number in (0, 1))
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(3000):
        if second.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert second.exists(), stderr
    trained_at = (checkpoint / "best.safetensors").stat().st_mtime_ns

    finished = subprocess.run([*program, "--json"], capture_output=True, check=True)

    result = AutolabelResult.model_validate_json(finished.stdout)
    assert (checkpoint / "best.safetensors").stat().st_mtime_ns == trained_at
    assert result.accepted == len(rows_of(result.labels)) > 0
    assert (result.max_error, result.confidence, result.used_rounds) == (None, None, 1)
    assert result.checkpoint.is_file()
