"""Resumed runs: a run that was killed twice ends with the same weights as one without a stop.

Each run is a process of its own, forked from a server that has imported the trainer once, which takes most of a
start, and is ended with SIGKILL.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.numpy import load_file

from tests.fixture_types import Command
from train.engine.state_files import PRUNED_KEY, BestEpochCheckpoint

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["train.cli", "train.engine.fit"])
RUN = """
import multiprocessing, os
multiprocessing.set_start_method("fork", force=True)  # what a process from a shell has
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
os.chdir({folder!r})
from train.cli import app
app({words!r})
"""
DROPOUT = {"name": "test_resnet", "arguments": {"drop_rate": 0.3}}
PLAIN: dict[str, Any] = {
    "model": DROPOUT, "epochs": 4, "workers": 1, "augment": {"color": 0.2, "flip": 0.5}, "patience": 4,
}  # fmt: skip
AVERAGED: dict[str, Any] = {
    **PLAIN, "ema": 0.8, "frozen_epochs": 1, "frozen_lr": 0.01, "epochs": 3, "keep_best": 2, "gradient_clip": 1.0,
    "augment": {"randaugment": True, "mixup": 0.2, "cutmix": 1.0},
    "pruning": {"function": "random_unstructured", "amount": 0.4},
}  # fmt: skip
DYING = """
import os, signal
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from lightning.pytorch import Trainer
from train.engine.state_files import PRUNED_KEY, BestEpochCheckpoint
from tritonkit.plugins import register


@register("callback", "dying")
class Dying(Callback):
    def _die(self, trainer, where):
        for mark in Path("deaths").glob(f"*-{where}-{trainer.current_epoch}"):
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self._die(trainer, f"batch{index}")

    def on_validation_epoch_start(self, trainer, module):
        self._die(trainer, "validation")

    def on_train_epoch_end(self, trainer, module):
        self._die(trainer, "between")  # the figures are written, the states are not

    def on_fit_end(self, trainer, module):
        if any(Path("deaths").glob("*-fitted")):
            self._die(trainer, "fitted")
            next(Path("deaths").glob("*-fitted")).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def started(folder: Path, *words: object) -> ForkServerProcess:
    """Start `train` with these arguments in a new process."""
    code = RUN.format(log=str(folder / "log.txt"), folder=str(folder), words=list(map(str, words)))
    process = FORKED.Process(target=exec, args=(code, {"__name__": "__main__"}))
    process.start()
    return process


def finished(process: ForkServerProcess) -> int:
    process.join(timeout=120)
    assert process.exitcode is not None, "it takes too long"
    return process.exitcode


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    found = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
    return [{name: value for name, value in row.items() if name != "time"} for row in found]


def wait_for(process: ForkServerProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)


def assert_equal_runs(first_run: Path, second_run: Path, checkpoints: set[str]) -> None:
    """Assert that both runs wrote the same checkpoints, bit for bit, and the same metrics."""
    for run in (first_run, second_run):
        assert {path.stem for path in run.glob("*.safetensors")} == checkpoints
    for name in checkpoints:
        first, second = (load_file(run / f"{name}.safetensors") for run in (first_run, second_run))
        assert first.keys() == second.keys()
        assert not [key for key in first if first[key].tobytes() != second[key].tobytes()], name
    assert rows(first_run) == rows(second_run)
    leftovers = [path for path in second_run.rglob("*") if "partial" in path.name or "tmp" in path.name]
    assert not leftovers


@pytest.fixture(scope="session")
def undisturbed(
    copy_digits: Callable[..., Path], write_config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the folder of a variant's configuration, with a finished run."""
    ready: dict[str, Path] = {}
    shared = tmp_path_factory.mktemp("resume")
    copy_digits(shared / "data", count=20)

    def run(variant: str) -> Path:
        if variant not in ready:
            root = ready[variant] = shared / variant
            root.mkdir()
            (root / "dying.py").write_text(DYING)
            (root / "deaths").mkdir()
            changes = {"plain": PLAIN, "averaged": AVERAGED}[variant]
            sampling = {"plain": "shuffled", "averaged": "balanced"}[variant]
            data = {"path": str(shared / "data"), "val_ratio": 0.2, "test_ratio": 0.2, "sampling": sampling}
            plugins = {"plugins": ["dying"], "callbacks": ["dying"]}
            write_config(root / "config.yaml", shared / "data", **plugins, **changes, data=data)
            assert finished(started(root, "fit", root / "config.yaml")) == 0, (root / "log.txt").read_text()
        return ready[variant]

    return run


@pytest.mark.drill
def test_run_ends_the_same_when_killed_at_random_moments(undisturbed: Callable[[str], Path]) -> None:
    root = undisturbed("averaged")
    run = root / "runs" / "tiny" / "2"
    draw = random.Random(3)
    # In the first epoch; in the second; in the third or fourth; while the results are written.
    moments: list[Callable[[], bool]] = [
        lambda: (run / "splits" / "data.json").is_file(),
        lambda: len(rows(run)) >= 1,
        lambda: len(rows(run)) >= 2,
        lambda: (run / "last.golden.npz").is_file(),
    ]
    words = ["fit", root / "config.yaml"]
    for moment, patience_s in zip(moments, (0.5, 0.8, 0.8, 0.1), strict=True):
        process = started(root, *words)
        wait_for(process, moment)
        time.sleep(draw.uniform(0, patience_s))
        process.kill()
        assert finished(process) == -signal.SIGKILL
        assert not (run / "best.safetensors").exists()
        words = ["resume", run]
    assert finished(started(root, *words)) == 0, (root / "log.txt").read_text()
    assert_equal_runs(root / "runs" / "tiny" / "1", run, {"best", "best-2", "last"})


def test_resume_is_refused_when_the_run_is_still_going(undisturbed: Callable[[str], Path], command: Command) -> None:
    root = undisturbed("plain")
    process = started(root, "fit", root / "config.yaml", "epochs=1000", "name=busy", "callbacks=[]", "patience=null")
    run = root / "runs" / "busy" / "1"
    wait_for(process, lambda: len(rows(run)) >= 1)
    result = command("train", "resume", run, "--json")
    assert process.is_alive()
    process.kill()
    finished(process)
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "run.locked"), result.output


def test_run_ends_the_same_when_killed_at_the_worst_moments(undisturbed: Callable[[str], Path]) -> None:
    root = undisturbed("plain")
    run = root / "runs" / "tiny" / "2"
    deaths = ["1-batch0-0", "2-between-0", "3-validation-2", "4-between-3"]
    for death in deaths:
        (root / "deaths" / death).touch()
    words = ["fit", root / "config.yaml"]
    for number in range(len(deaths)):
        assert finished(started(root, *words)) == -signal.SIGKILL
        assert len(list((root / "deaths").iterdir())) == len(deaths) - number - 1
        words = ["resume", run]
    assert finished(started(root, *words)) == 0, (root / "log.txt").read_text()
    assert_equal_runs(root / "runs" / "tiny" / "1", run, {"best", "last"})


@pytest.fixture(scope="module")
def stopped(undisturbed: Callable[[str], Path]) -> Path:
    """A run that was killed in its second epoch; tests must not change it."""
    root = undisturbed("plain")
    (root / "deaths" / "1-validation-1").touch()
    assert finished(started(root, "fit", root / "config.yaml", "name=stopped")) == -signal.SIGKILL
    return root / "runs" / "stopped" / "1"


def broken_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {}, "author": Path("x")}))


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        (lambda path: os.truncate(path, 5000), "checkpoint.not_a_state"),
        (lambda path: path.write_bytes(b""), "checkpoint.not_a_state"),
        (lambda path: path.write_bytes(b"no state" * 999), "checkpoint.not_a_state"),
        (broken_pickle, "checkpoint.not_a_state"),
        (lambda path: torch.save({"state_dict": {}, "epoch": 1}, path), "checkpoint.not_a_state"),
        (lambda path: (path.unlink(), path.mkdir()), "checkpoint.not_found"),
    ],
)
def test_resume_names_the_state_when_it_cannot_be_read(
    stopped: Path, tmp_path: Path, command: Command, breaking: Callable[[Path], Any], code: str
) -> None:
    run = tmp_path / "1"
    shutil.copytree(stopped, run)
    breaking(run / "lightning" / "last.ckpt")
    result = command("train", "resume", run, "--json")
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert error["code"] == code
    assert error["message"].startswith(f"{run / 'lightning' / 'last.ckpt'}: ")
    assert f"train fit {run / 'config.yaml'}" in error["message"]
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("is_pruned", [False, True])
def test_restart_from_the_best_epoch_is_proposed_when_no_channels_were_removed(
    stopped: Path, tmp_path: Path, command: Command, is_pruned: bool
) -> None:
    run = tmp_path / "1"
    shutil.copytree(stopped, run)
    (run / "lightning" / "last.ckpt").write_bytes(b"")
    (best,) = (run / "lightning").glob("best-*")
    torch.save(torch.load(best, weights_only=True) | {PRUNED_KEY: is_pruned}, best)
    result = command("train", "resume", run)
    assert result.exit_code == 2, result.output
    assert (f"model.weights={best}" in result.output.replace("\n    ", "")) == (not is_pruned)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("name: test_resnet", "name: resnet18", "model.name is 'resnet18', was 'test_resnet'; "),
        ("name: adamw", "name: sgd", "optimizer.name is 'sgd', was 'adamw'"),
        ("task: multiclass", "task: embedding", "task is 'embedding', was 'multiclass'"),
        ("drop_rate: 0.3", "drop_rate: 0.1", "model.arguments.drop_rate is 0.1, was 0.3"),
    ],
)
def test_resume_is_refused_when_the_configuration_makes_another_model(
    stopped: Path, tmp_path: Path, command: Command, before: str, after: str, expected: str
) -> None:
    run = tmp_path / "1"
    shutil.copytree(stopped, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(before, after))
    result = command("train", "resume", run, "--json")
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "run.config_changed"
    assert f"{config}: {expected}" in error["message"]
    assert result.stderr.count("\n") == 1


def test_only_the_best_epochs_are_kept_on_when_fewer_are_to_be_kept(tmp_path: Path) -> None:
    scores = {f"best-epoch={epoch}.ckpt": torch.tensor(score) for epoch, score in ((1, 0.7), (2, 0.9), (3, 0.8))}
    kept = BestEpochCheckpoint(tmp_path, monitor="val_accuracy", mode="max", save_top_k=3).state_dict() | {
        "best_k_models": scores, "best_model_path": "best-epoch=2.ckpt", "kth_value": torch.tensor(0.7),
    }  # fmt: skip
    for count, worst in ((1, 2), (2, 3)):
        callback = BestEpochCheckpoint(tmp_path, monitor="val_accuracy", mode="max", save_top_k=count)
        callback.load_state_dict(kept)
        assert len(callback.best_k_models) == count
        assert callback.kth_best_model_path == str(tmp_path / f"best-epoch={worst}.ckpt")
        assert callback.kth_value == scores[f"best-epoch={worst}.ckpt"]
        assert not callback.check_monitor_top_k(Trainer(logger=False), torch.tensor(0.75))
