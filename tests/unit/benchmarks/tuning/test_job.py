"""The job of a search: what is left after `kill -9`, and how it continues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tuning.job import TWICE_INTERRUPTED, TuningJob, job_file, open_job
from benchmarks.tuning.space import SearchSpace, Workers
from tests.errors import raises
from tests.programs import ROOT
from tritonkit.errors import InputError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings

SPACE = SearchSpace((Workers(1, 1), Workers(1, 2)), max_batch=(1, 4, 8))
GOAL = TuningGoal(target="throughput", p99_ms=50, levels=(1, 8), batch=1)
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.benchmarks.tuning.test_job import GOAL, SPACE, finish
from benchmarks.tuning.job import open_job
with open_job(Path(sys.argv[1]), SPACE, GOAL) as job:
    finish(job, 4)
    job.enqueue({**{name: values[0] for name, values in SPACE.choices().items()}, "max_batch_size": 8})
    job.ask()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def finish(job: TuningJob, largest: int, images_per_s: float = 100) -> TuningTrial:
    """Run one trial with this largest batch."""
    job.enqueue({**{name: values[0] for name, values in SPACE.choices().items()}, "max_batch_size": largest})
    trial, chosen = job.ask()
    figures = Figures(level=8, images_per_s=images_per_s, p50_ms=10, p99_ms=20)
    measured = TuningTrial(settings=SPACE.settings(chosen), levels=(figures,), best=figures, keeps_bound=True)
    job.tell(trial, measured, figures.images_per_s)
    job.add_spent(2.5)
    return measured


def test_a_killed_search_continues_with_its_trials_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "job.journal"
    process = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, capture_output=True, check=False)
    assert process.returncode == -9, process.stderr.decode()
    with path.open("ab") as journal:  # killed within a write, and while it held Optuna's lock
        journal.write(b'{"op_code": 4, "wor')
    Path(f"{path}.lock").symlink_to(path)
    with open_job(path, SPACE, GOAL) as job:
        assert job.spent_s == 2.5
        assert [trial.settings.max_batch for trial in job.trials()] == [4]
        _, chosen = job.ask()
        assert chosen["max_batch_size"] == 8, "the settings that were being tried are tried again"


def test_settings_that_end_the_search_twice_are_not_tried_a_third_time(tmp_path: Path) -> None:
    path = tmp_path / "job.journal"
    ending = {name: values[-1] for name, values in SPACE.choices().items()}
    with open_job(path, SPACE, GOAL) as job:
        job.enqueue(ending)
        job.ask()
    with open_job(path, SPACE, GOAL) as job:
        job.ask()
    with open_job(path, SPACE, GOAL) as job:
        assert [trial.failed for trial in job.trials()] == [TWICE_INTERRUPTED]
        assert job.ask()[1] != ending


def test_one_process_tunes_a_model(tmp_path: Path) -> None:
    with (
        open_job(tmp_path / "a.journal", SPACE, GOAL),
        raises(InputError, "benchmark.tuning_runs"),
        open_job(tmp_path / "b.journal", SPACE, GOAL),
    ):
        pass


def test_the_same_question_finds_the_same_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITONKIT_STATE", str(tmp_path))
    first = job_file("127.0.0.1:8001/cats", {"p99_ms": 50})
    assert first == job_file("127.0.0.1:8001/cats", {"p99_ms": 50})
    other = job_file("127.0.0.1:8001/cats", {"p99_ms": 20})
    assert (first != other, first.parent == other.parent) == (True, True)


def test_failed_trials_and_rounds_are_kept(tmp_path: Path) -> None:
    with open_job(tmp_path / "job.journal", SPACE, GOAL) as job:
        trial, chosen = job.ask()
        settings = SPACE.settings(chosen)
        job.tell(trial, TuningTrial(settings=settings, failed="out of memory"), None)
        finished = finish(job, 1)
        assert finished.best is not None
        job.save_rounds([{"a": finished.best}])
        job.save_current(TuningTrial(settings=ServingSettings(max_batch=8, instances=2)), None)
    with open_job(tmp_path / "job.journal", SPACE, GOAL) as job:
        assert [trial.failed for trial in job.trials()] == [None, "out of memory", None]
        assert job.rounds() == [{"a": finished.best}]
        assert job.current is not None
        assert job.current.settings.instances == 2
