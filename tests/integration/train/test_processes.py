"""Trainings by several processes: the results of one process, one error when a process fails, and resumed runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests.errors import error_codes
from tests.fixture_types import Command
from tests.programs import console_script
from train.config.loading import load_config
from train.distributed.processes import Processes
from train.engine.fit import fit

# Without batch norms, whose statistics are those of one process, several processes compute what one computes.
NO_BATCH_NORM = {"name": "test_vit", "arguments": {"img_size": 32}}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def config(folder: Path, tmp_path: Path, write_config: Callable[..., Path]) -> Path:
    return write_config(tmp_path / "config.yaml", folder, devices=2, batch_size=4)


def test_two_processes_train_the_weights_of_one_with_the_same_total_batch(
    command: Command,
    folder: Path,
    tmp_path: Path,
    write_config: Callable[..., Path],
    figures: Callable[[Path], list[dict[str, float]]],
) -> None:
    changes = {"model": NO_BATCH_NORM, "ema": 0.5, "frozen_epochs": 1, "epochs": 2, "optimizer": {"name": "sgd"}}
    heads = {"digit": {"task": "multiclass", "column": "label"}, "turn": {"task": "augmentation"}}
    heads["turn"]["operation"] = "rotation"
    changes |= {"task": "heads", "heads": heads, "augment": {"flip": 0}}
    path = write_config(tmp_path / "config.yaml", folder, batch_size=8, **changes)
    alone = fit(load_config(path))
    result = command("train", "fit", path, "devices=2", "batch_size=4", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    one, two = load_file(alone.checkpoint), load_file(document["checkpoint"])
    assert one.keys() == two.keys()
    assert max(float((one[key].float() - two[key].float()).abs().max()) for key in one) < 1e-5
    assert document["metrics"] == pytest.approx(alone.metrics, abs=1e-4)
    for row, other in zip(figures(alone.run), figures(Path(document["run"])), strict=True):
        assert {**other, "time": 0} == pytest.approx({**row, "time": 0}, abs=1e-4)


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


PLUGIN = """
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from tritonkit.plugins import register

@register("callback", "sizes")
class Sizes(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        Path(f"size-{trainer.global_rank}").write_text(str(len(batch[0])))
"""


def test_processes_share_one_batch_size_when_it_is_auto_and_the_working_folder_shadows_a_module(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('not the module of Python')")
    (tmp_path / "sizes.py").write_text(PLUGIN)
    plugins = {"plugins": ["sizes"], "callbacks": ["sizes"]}
    config = write_config(tmp_path / "config.yaml", folder, devices=2, batch_size="auto", **plugins)
    command = [console_script("train"), "fit", config, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_config(Path(json.loads(done.stdout)["run"]) / "config.yaml").batch_size == 8
    assert [(tmp_path / f"size-{rank}").read_text() for rank in (0, 1)] == ["8", "8"]


def torchrun_variables(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    for name, value in Processes(on_host=2).variables(rank, port=1).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("key", "code"), [("batch_size", "config.batch_size_auto"), ("optimizer.lr", "config.lr_auto")]
)
def test_automatic_number_is_refused_in_each_process_when_torchrun_started_them(
    command: Command, config: Path, monkeypatch: pytest.MonkeyPatch, rank: int, key: str, code: str
) -> None:
    torchrun_variables(monkeypatch, rank)
    result = command("train", "fit", config, f"{key}=auto", "--json")
    assert result.exit_code == 2
    assert code in error_codes(result) if rank == 0 else result.output == ""
    assert not (config.parent / "runs").exists()


@pytest.mark.parametrize("verb", ["autolabel", "baseline", "compress", "folds", "lr", "quantize", "search"])
def test_command_of_one_process_is_refused_once_when_torchrun_started_several(
    command: Command, config: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    more = ["--unlabelled", config.parent] if verb == "autolabel" else []
    torchrun_variables(monkeypatch, rank=0)
    result = command("train", verb, config, *more, "--json")
    assert (result.exit_code, error_codes(result)) == (2, {"processes.torchrun"})
    torchrun_variables(monkeypatch, rank=1)
    result = command("train", verb, config, *more, "--json")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.drill
@pytest.mark.parametrize("words", [["fit", "batch_size=auto"], ["baseline"]])
def test_torchrun_ends_with_one_error_when_its_processes_are_refused(config: Path, words: list[str]) -> None:
    command = [*TORCHRUN, console_script("train"), words[0], str(config), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\nerror: ") + done.stderr.startswith("error: ") == 1, done.stderr


def test_strategy_that_expects_all_gradients_is_refused_when_layers_are_frozen(command: Command, config: Path) -> None:
    result = command("train", "fit", config, "strategy=ddp", "frozen_epochs=1", "--json")
    assert json.loads(result.stdout)["error"]["problems"][0]["code"] == "config.strategy"


@pytest.mark.drill
def test_two_processes_reach_the_accuracy_of_one_when_torchrun_starts_them(
    figures: Callable[[Path], list[dict[str, float]]], tmp_path: Path
) -> None:
    words = ["examples/digits.yaml", "epochs=3", f"output={tmp_path}"]
    alone = fit(load_config(Path(words[0]), words[1:]))
    command = [*TORCHRUN, console_script("train"), "fit", *words, "batch_size=24", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/3") == 1
    document = json.loads(done.stdout)
    two = document["metrics"]
    assert two["test_accuracy"] == pytest.approx(alone.metrics["test_accuracy"], abs=0.005)
    # After an epoch, the processes together have measured all of val, as the command does again at the end.
    best = max(figures(Path(document["run"])), key=lambda row: row["val_accuracy"])
    measured = {name: value for name, value in two.items() if name in best}
    assert {"val_accuracy", "val_macro_f1"} <= set(measured)
    assert {name: best[name] for name in measured} == pytest.approx(measured, abs=2e-6)


def endless(words: list[str]) -> subprocess.Popen[str]:
    """Start a training by two processes, and wait until it has finished an epoch."""
    command = [console_script("train"), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line.startswith("epoch") for line in process.stderr)
    return process


@pytest.mark.drill
def test_run_is_resumed_when_the_command_or_one_of_its_processes_was_killed(command: Command, config: Path) -> None:
    run = config.parent / "runs" / "tiny" / "1"
    with endless(["fit", str(config), "epochs=1000", "workers=1"]) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    with endless(["resume", str(run)]) as process:
        workers = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)
        assert len(workers) == 2
        workers[1].kill()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (3, "")
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
