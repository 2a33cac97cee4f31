"""The folder of one run: its number and its files."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite, nan
from pathlib import Path

import yaml

from train.config.loading import Config, load_config
from train.data import SPLITS, SUMMARY_FILE
from tritonkit.errors import ConfigError


@dataclass(frozen=True)
class RunFolder:
    """The folder `<output>/<name>/<number>` of a run."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Create the folder with the next free number, safe against parallel runs. Raises ConfigError."""
        parent = config.output / config.name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                numbers = [int(child.name) for child in parent.iterdir() if child.name.isdecimal()]
                try:
                    path = parent / str(max(numbers, default=0) + 1)
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise ConfigError(
                f"output: cannot create a run folder in {parent}: {error}", code="output.not_writable"
            ) from error
        return cls(path)

    @classmethod
    def open_unfinished(cls, path: Path) -> RunFolder:
        """Open the folder of an unfinished run. Raises ConfigError for any other folder."""
        run = cls.open(path)
        if run.checkpoint("best").is_file():
            raise ConfigError(
                f"{path}: the run is finished; its best checkpoint is {run.checkpoint('best')}", code="run.finished"
            )
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run by its folder or by a checkpoint in it. Raises ConfigError for any other path."""
        for run in map(cls, [path] if path.is_dir() else path.parents[:2] if path.is_file() else []):
            if run.config_file.is_file() and run.data_summary.is_file():
                return run
        raise ConfigError(
            f"{path}: is not a run folder, and not a checkpoint in one; expected a folder such as runs/digits/1 with "
            f"config.yaml and {SPLITS}/{SUMMARY_FILE}",
            code="run.not_a_run",
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other processes. Raises ConfigError if another process has locked it."""
        lock_file = self.path / ".lock"
        with lock_file.open("w") as lock:
            try:
                # lockf belongs to this process alone: workers that outlive a killed process do not hold the lock.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"{self.path}: another process is training in this folder; wait for it, or stop it",
                    code="run.locked",
                ) from error
            try:
                yield
            finally:
                lock_file.unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether another process is training in this folder. Not for the process that has locked it."""
        try:
            with (self.path / ".lock").open("r") as lock:
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def delete_partial_files(self) -> None:
        """Delete files that a killed process did not finish writing."""
        for partial in self.path.rglob(".*.partial"):
            partial.unlink(missing_ok=True)

    @property
    def states(self) -> Path:
        """The folder of Lightning's checkpoints, which contain the optimizer's state."""
        return self.path / "lightning"

    @property
    def last_state(self) -> Path:
        """The state after the last complete epoch."""
        return self.states / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """The metrics after each epoch."""
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The plot of losses and metrics over the epochs."""
        return self.path / "curves.png"

    @property
    def learning_rate(self) -> Path:
        """The plot of the sweep that found the learning rate, with `optimizer.lr: auto`."""
        return self.path / "learning_rate.png"

    @property
    def batches(self) -> Path:
        """A contact sheet of training images as the network gets them."""
        return self.path / "batches.png"

    @property
    def predictions(self) -> Path:
        """A contact sheet of validation images with the best epoch's answers."""
        return self.path / "predictions.png"

    @property
    def started(self) -> datetime | None:
        """When the run was started: the time of its summary of the data, which is never written again."""
        return datetime.fromtimestamp(self.data_summary.stat().st_mtime, UTC) if self.data_summary.is_file() else None

    @property
    def evaluation(self) -> Path:
        """The best network's figures and mistakes on the test part, for the report."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    def confusion(self, head: str) -> Path:
        """The confusion matrix of the best epoch; `head` is empty for a model with one head."""
        return self.path / (f"confusion.{head}.png" if head else "confusion.png")

    @property
    def splits(self) -> Path:
        """The folder with `train.csv`, `val.csv`, `test.csv`, and `data.json`."""
        return self.path / SPLITS

    @property
    def data_summary(self) -> Path:
        """The counts and the fingerprint of the data; written once, when the run starts."""
        return self.splits / SUMMARY_FILE

    @property
    def mlflow_record(self) -> Path:
        """What MLflow has of the run; written if the run is tracked there."""
        return self.path / "mlflow.json"

    def mlflow_run(self) -> str | None:
        """Read the id of the run in MLflow; None if MLflow does not have it."""
        try:
            run_id: str | None = json.loads(self.mlflow_record.read_bytes())["run_id"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return run_id

    def epoch_confusion(self, epoch: int, head: str, suffix: str) -> Path:
        """The confusion matrix of val after an epoch, as `.png` or as `.csv`."""
        return self.path / "confusion" / (f"{epoch:03}.{head}{suffix}" if head else f"{epoch:03}{suffix}")

    def checkpoint(self, name: str) -> Path:
        """The path of a checkpoint: `best`, `best-2`, …, or `last`."""
        return self.path / f"{name}.safetensors"

    def save_config(self, config: Config) -> None:
        """Write the resolved configuration; `train fit` accepts it."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self.config_file.write_text(text, encoding="utf-8")

    def epochs(self) -> list[dict[str, float]]:
        """Return the finite numbers of each row of `metrics.csv`; none if it is missing or broken."""
        try:
            with self.metrics.open(newline="", encoding="utf-8") as file:
                rows = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError, csv.Error):
            return []
        return [{name: value for name, value in row.items() if isfinite(value)} for row in rows if "epoch" in row]

    def load_config(self) -> Config:
        """Read the configuration of the run. Raises ConfigError."""
        return load_config(self.config_file)

    def fingerprint(self) -> str:
        """Read the fingerprint of the run's data. Raises ConfigError."""
        try:
            return str(json.loads(self.data_summary.read_text())["fingerprint"])
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{self.data_summary}: cannot be read ({error})", code="run.broken_summary") from error

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"


def git_revision() -> str | None:
    """Return the git commit of the working directory, with `-dirty` if tracked files differ; None outside git."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return process.stdout.strip() or None


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return nan
