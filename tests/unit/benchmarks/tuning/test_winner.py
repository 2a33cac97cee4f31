"""The winner in the repository: what is written, and undone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.tuning.confirmation import compare_in_turns, is_better, summarize
from benchmarks.tuning.winner import difference, new_configs, undo, write_winner
from tests.errors import raises
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningRecord, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.model_config import read_config

GOAL = TuningGoal(target="throughput", p99_ms=50, levels=(1, 2, 4, 8), batch=1)
CURRENT = ServingSettings(max_batch=16, instances=2)
WINNER = ServingSettings(max_batch=8, instances=1, threads=2, delay_us=1000)
CATS = """# comments of the user are kept in tuning.json
backend: "onnxruntime"
max_batch_size: 16
dynamic_batching { preferred_batch_size: 16 }
"""
ENCODED = 'max_batch_size: 16\nparameters { key: "encoded_of" value { string_value: "cats" } }\n'


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, text in {
        "cats": CATS,
        "cats_encoded": 'platform: "ensemble"\nensemble_scheduling {}\n' + ENCODED,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text)
    (tmp_path / "cats_encoded" / "configs").mkdir()
    (tmp_path / "cats_encoded" / "configs" / "one_process.pbtxt").write_text('backend: "own"\n' + ENCODED)
    return tmp_path


def record(winner: ServingSettings = WINNER) -> TuningRecord:
    return TuningRecord(
        created=datetime(2026, 1, 2, tzinfo=UTC),
        goal=GOAL,
        minutes=5,
        winner=winner,
        replaced=CURRENT,
        confirmed={},
        trials=(),
        machine={"cores": 2},
    )


def test_the_winner_is_written_with_its_ensemble_and_undone_to_the_byte(models: Path) -> None:
    before = {path: path.read_bytes() for path in models.rglob("*.pbtxt")}
    configs = new_configs(models, "cats", WINNER)
    assert "+max_batch_size: 8" in difference(models, configs)
    write_winner(models, "cats", configs, record())
    assert ServingSettings.from_config(read_config(models / "cats")) == WINNER
    assert read_config(models / "cats_encoded").max_batch_size == 8
    assert "max_batch_size: 8" in (models / "cats_encoded" / "configs" / "one_process.pbtxt").read_text()
    assert undo(models, "cats").winner == WINNER
    assert {path: path.read_bytes() for path in models.rglob("*.pbtxt")} == before
    assert not (models / "cats" / "tuning.json").exists()
    with raises(InputError, "benchmark.nothing_to_undo"):
        undo(models, "cats")


def test_undo_goes_back_one_search_at_a_time(models: Path) -> None:
    write_winner(models, "cats", new_configs(models, "cats", WINNER), record())
    second = WINNER.model_copy(update={"max_batch": 16})
    write_winner(models, "cats", new_configs(models, "cats", second), record(second))
    assert read_config(models / "cats_encoded").max_batch_size == 16
    assert undo(models, "cats").winner == second
    assert undo(models, "cats").winner == WINNER
    assert (models / "cats" / "config.pbtxt").read_text() == CATS


def test_undo_refuses_a_config_that_was_edited_since(models: Path) -> None:
    write_winner(models, "cats", new_configs(models, "cats", WINNER), record())
    path = models / "cats" / "config.pbtxt"
    path.write_text(path.read_text() + "# mine\n")
    with raises(InputError, "benchmark.config_changed", str(path)):
        undo(models, "cats")


def figures(images_per_s: float, p99_ms: float = 20, concurrency: int = 8) -> Figures:
    return Figures(level=concurrency, images_per_s=images_per_s, p50_ms=10, p99_ms=p99_ms)


def trial(settings: ServingSettings, best: Figures) -> TuningTrial:
    return TuningTrial(settings=settings, levels=(best,), best=best, keeps_bound=True)


class Rounds(list[dict[str, Figures]]):
    """Keeps rounds in memory."""

    def rounds(self) -> list[dict[str, Figures]]:
        return list(self)

    def save_rounds(self, rounds: list[dict[str, Figures]]) -> None:
        self[:] = rounds


def test_settings_that_exceed_the_bound_when_measured_again_go_one_level_down() -> None:
    kept, times = Rounds(), iter(range(3))

    def measure(settings: ServingSettings, concurrency: int) -> Figures:
        return figures(concurrency * 10, 20 if settings == CURRENT or concurrency < 8 else 60, concurrency)

    compared = [trial(CURRENT, figures(50)), trial(WINNER, figures(80))]
    compare_in_turns(compared, GOAL, kept, measure, lambda: next(times) < 2)
    winner = summarize(kept, WINNER.words())
    assert winner is not None
    assert (len(kept), winner.level, winner.p99_ms) == (2, 4, 20)


def test_settings_are_compared_each_at_its_best_of_all_levels() -> None:
    """The trial of the current settings saw only 2 in flight, where they are slower than with 8."""
    kept, times = Rounds(), iter(range(3))

    def measure(settings: ServingSettings, concurrency: int) -> Figures:
        return figures({2: 50, 8: 80}[concurrency] if settings == CURRENT else 79, concurrency=concurrency)

    compared = [trial(CURRENT, figures(50, concurrency=2)), trial(WINNER, figures(80))]
    compare_in_turns(compared, GOAL, kept, measure, lambda: next(times) < 2)
    assert [entry[CURRENT.words()].level for entry in kept] == [8, 8]
    assert not is_better(kept, WINNER.words(), CURRENT.words(), GOAL)


def test_settings_that_fail_in_a_round_are_left_out_of_it() -> None:
    kept, times = Rounds(), iter(range(2))

    def measure(settings: ServingSettings, concurrency: int) -> Figures:
        if settings == WINNER:
            raise CheckFailedError("out of memory", code="server.refused_model")
        return figures(50)

    compare_in_turns(
        [trial(CURRENT, figures(50)), trial(WINNER, figures(80))], GOAL, kept, measure, lambda: next(times) < 1
    )
    assert set(kept[0]) == {CURRENT.words()}


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [((110, 111, 109), (100, 101, 99), True), ((110, 90, 101), (100, 99, 100), False), ((110,), (100,), False)],
)
def test_new_settings_must_be_better_than_noise(new: tuple[float, ...], old: tuple[float, ...], expected: bool) -> None:
    rounds = [{"new": figures(first), "old": figures(second)} for first, second in zip(new, old, strict=True)]
    assert is_better(rounds, "new", "old", GOAL) is expected
