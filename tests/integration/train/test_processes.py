"""Trainings by several processes: the results of one process, one error when a process fails, and resumed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests.fixture_types import Command
from tests.programs import console_script
from train.config.loading import load_config
from train.engine.fit import fit
from train.evaluate import evaluate

# Without batch norms, whose statistics are those of one process, several processes compute what one computes.
NO_BATCH_NORM = {"name": "test_vit", "arguments": {"img_size": 32}}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def config(folder: Path, tmp_path: Path, write_config: Callable[..., Path]) -> Path:
    return write_config(tmp_path / "config.yaml", folder, devices=2, batch_size=4)


def test_two_processes_train_the_weights_of_one_with_the_same_total_batch(
    command: Command, folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    changes = {"model": NO_BATCH_NORM, "ema": 0.5, "frozen_epochs": 1, "epochs": 2, "optimizer": {"name": "sgd"}}
    path = write_config(tmp_path / "config.yaml", folder, batch_size=8, **changes)
    alone = fit(load_config(path))
    result = command("train", "fit", path, "devices=2", "batch_size=4", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    one, two = load_file(alone.checkpoint), load_file(document["checkpoint"])
    assert one.keys() == two.keys()
    assert max(float((one[key].float() - two[key].float()).abs().max()) for key in one) < 1e-5
    assert document["metrics"] == pytest.approx(alone.metrics, abs=1e-4)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("devices=0", "config.invalid"),
        ("devices=many", "config.invalid"),
        ("strategy=dp", "config.invalid"),
        ("num_nodes=2", "config.num_nodes"),
        ("devices=13", "data.too_few_for_processes"),
    ],
)
def test_processes_are_refused_before_training_when_they_cannot_start(
    command: Command, config: Path, override: str, code: str
) -> None:
    result = command("train", "fit", config, override, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert code in {error["code"], *(problem["code"] for problem in error.get("problems", ()))}
    assert override.partition("=")[0] in error["message"]
    assert not (config.parent / "runs").exists()


def test_strategy_that_expects_all_gradients_is_refused_when_layers_are_frozen(command: Command, config: Path) -> None:
    result = command("train", "fit", config, "strategy=ddp", "frozen_epochs=1", "--json")
    assert json.loads(result.stdout)["error"]["problems"][0]["code"] == "config.strategy"


@pytest.mark.drill
def test_two_processes_reach_the_accuracy_of_one_on_digits(tmp_path: Path) -> None:
    words = ["examples/digits.yaml", "epochs=3", f"output={tmp_path}"]
    alone = fit(load_config(Path(words[0]), words[1:]))
    two = fit(load_config(Path(words[0]), [*words[1:], "devices=2", "batch_size=24"]))
    assert two.metrics["test_accuracy"] == pytest.approx(alone.metrics["test_accuracy"], abs=0.005)
    shapes = [{key: tensor.shape for key, tensor in load_file(run.checkpoint).items()} for run in (alone, two)]
    assert shapes[0] == shapes[1]
    assert evaluate(two.checkpoint).metrics["accuracy"] == two.metrics["test_accuracy"]


@pytest.mark.drill
def test_metrics_after_an_epoch_are_of_all_images_when_torchrun_starts_two_processes(
    facts_about_digits: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    write_config: Callable[..., Path],
    figures: Callable[[Path], list[dict[str, float]]],
    tmp_path: Path,
) -> None:
    table = write_table(tmp_path / "facts.csv", facts_about_digits(8))
    heads: dict[str, Any] = {
        "digit": {"task": "multiclass"},
        "look": {"task": "embedding", "column": "digit", "embedding_size": 8},
    }
    data = {"path": str(table), "val_ratio": 0.3, "test_ratio": 0.2}
    config = write_config(tmp_path / "config.yaml", table, task="heads", heads=heads, data=data, batch_size=4)
    words = [console_script("train"), "fit", str(config), "--json"]
    done = subprocess.run([*TORCHRUN, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert done.stderr.count("epoch 1/1") == 1
    epoch = figures(Path(document["run"]))[0]
    measured = {name: value for name, value in document["metrics"].items() if name in epoch}
    assert {"val_mean", "val_digit.macro_f1", "val_look.recall@5"} <= set(measured)
    assert {name: epoch[name] for name in measured} == pytest.approx(measured, abs=2e-6)


@pytest.fixture
def endless(config: Path, figures: Callable[[Path], list[dict[str, float]]]) -> Iterator[subprocess.Popen[str]]:
    """A training by two processes that has finished its first epoch."""
    words = [console_script("train"), "fit", str(config), "epochs=1000", "workers=1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "epoch 1/1000" in process.stderr.readline()
        yield process
        process.kill()


@pytest.mark.drill
def test_run_is_resumed_by_one_process_when_one_of_two_was_killed(
    command: Command, config: Path, endless: subprocess.Popen[str]
) -> None:
    run = config.parent / "runs" / "tiny" / "1"
    workers = sorted(psutil.Process(endless.pid).children(), key=lambda child: child.pid)
    assert len(workers) == 2
    workers[1].kill()
    output, errors = endless.communicate(timeout=60)
    assert (endless.returncode, output) == (3, "")
    assert [line for line in errors.splitlines() if not line.startswith("epoch")] == [
        f"error: process 1 of 2 was ended by SIGKILL, often for lack of memory; resume with: train resume {run}"
    ]
    assert not [worker for worker in workers if worker.is_running()]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    done = len((run / "metrics.csv").read_text().splitlines()) - 1
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "devices": 1, "epochs": done + 1}))
    result = command("train", "resume", run)
    assert result.exit_code == 0, result.output
    assert len((run / "metrics.csv").read_text().splitlines()) == done + 2


@pytest.mark.drill
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_command_is_stopped(endless: subprocess.Popen[str], sent: signal.Signals) -> None:
    workers = psutil.Process(endless.pid).children(recursive=True)
    os.kill(endless.pid, sent)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[sent]
    assert ("resume with: train resume" in errors) == (sent == signal.SIGINT)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
