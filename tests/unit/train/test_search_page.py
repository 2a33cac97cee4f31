"""The page about a search as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.browser import Browser, open_browser
from train.config.loading import Config, load_config
from train.config.search import SearchConfig
from train.search.page import page_html
from train.search.result import SearchResult, TrialResult, TrialStatus, best_yaml
from train.search.space import TrialSpace

TOO_WIDE = """[...document.querySelectorAll('.card, .plotly-graph-div, .main-svg, table, .annotation-text')]
    .filter(box => box.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""
UNDRAWN = (
    "[...document.querySelectorAll('.chart')].filter(chart => !chart.querySelector('.trace path, .point path')).length"
)
BACKBONES = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224")
STATES: tuple[TrialStatus, ...] = ("complete", "complete", "complete", "complete", "pruned", "failed", "waiting")


@pytest.fixture
def space() -> TrialSpace:
    values = {"name": "pets", "data": {"path": "x"}, "model": {"name": "x"}, "image": {"size": 1}}
    parameters = {
        "optimizer.lr": {"low": 0.0001, "high": 0.1, "log": True},
        "model.name": BACKBONES,
        "augment.mixup": [None, 0.2],
    }
    search = SearchConfig.model_validate({"parameters": parameters})
    return TrialSpace(Config.model_validate(values), search, values)


@pytest.fixture
def result() -> SearchResult:
    """Seven trials, of which one was pruned, one failed and one waits."""
    trials = tuple(
        TrialResult(
            number=number,
            state=state,
            value=0.7 + number / 100 if state in ("complete", "pruned") else None,
            values={}
            if state == "waiting"
            else {
                "optimizer.lr": 0.0003 * 2**number,
                "model.name": BACKBONES[number % 3],
                "augment.mixup": [None, 0.2][number % 2],
            },
            epochs={epoch: 0.6 + epoch * number / 100 for epoch in range(1, 2 if state == "pruned" else 4)}
            if state in ("complete", "pruned")
            else {},
            reason="the loss is <NaN>" if state == "failed" else None,
        )
        for number, state in enumerate(STATES)
    )
    return SearchResult(
        study="pets",
        storage="postgresql+psycopg://ada:***@db/studies",
        folder=Path("runs/pets/search"),
        metric="val_accuracy",
        direction="maximize",
        trials=trials,
        best=trials[3],
        importance={"optimizer.lr": 0.7, "model.name": 0.3, "augment.mixup": 0.0},
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def test_page_is_drawn_without_an_error_or_a_request(
    browser: Browser, space: TrialSpace, result: SearchResult, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_html(space, result, best_yaml(space, result)))
    for width, dark in ((1280, False), (390, True)):
        browser.open(path, width, dark=dark)
        assert browser.problems == []
        assert browser.requests == [path.as_uri()]
        assert browser.evaluate("document.querySelectorAll('.chart').length") == 3
        assert browser.evaluate(UNDRAWN) == 0
        assert browser.evaluate(TOO_WIDE) == 0


def test_page_shows_the_trials_and_a_configuration_to_train_from(
    space: TrialSpace, result: SearchResult, tmp_path: Path
) -> None:
    config = best_yaml(space, result)
    page = page_html(space, result, config)
    assert config in page
    assert "Trial 5 failed: the loss is &lt;NaN&gt;" in page
    assert "6 of 7" in page
    (tmp_path / "best.yaml").write_text(config)
    assert load_config(tmp_path / "best.yaml").model.name == BACKBONES[0]
    assert yaml.safe_load(config)["optimizer"] == {"lr": 0.0024}


def test_page_of_a_search_without_a_complete_trial_has_the_curves_alone(
    space: TrialSpace, result: SearchResult
) -> None:
    unfinished = result.model_copy(update={"trials": result.trials[-1:], "best": None, "importance": {}})
    page = page_html(space, unfinished, "")
    assert page.count('class="card chart"') == 1
    assert "best.yaml" not in page
    assert "0 of 1" in page
