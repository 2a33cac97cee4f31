"""The folder of one run: its number and its files."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from train.config.loading import Config, load_config
from train.data.splits import SUMMARY_FILE
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
        run = cls(path)
        if not (run._config.is_file() and (run.splits / SUMMARY_FILE).is_file()):
            raise ConfigError(
                f"{path}: is not a run folder; expected config.yaml and splits/{SUMMARY_FILE} in it",
                code="run.not_a_run",
            )
        if run.checkpoint("best").is_file():
            raise ConfigError(
                f"{path}: the run is finished; its best checkpoint is {run.checkpoint('best')}", code="run.finished"
            )
        return run

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
        summary = self.splits / SUMMARY_FILE
        return datetime.fromtimestamp(summary.stat().st_mtime, UTC) if summary.is_file() else None

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
        return self.path / "splits"

    def checkpoint(self, name: str) -> Path:
        """The path of a checkpoint: `best`, `best-2`, …, or `last`."""
        return self.path / f"{name}.safetensors"

    def save_config(self, config: Config) -> None:
        """Write the resolved configuration; `train fit` accepts it."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._config.write_text(text, encoding="utf-8")

    def load_config(self) -> Config:
        """Read the configuration of the run. Raises ConfigError."""
        return load_config(self._config)

    def fingerprint(self) -> str:
        """Read the fingerprint of the run's data. Raises ConfigError."""
        try:
            return str(json.loads((self.splits / SUMMARY_FILE).read_text())["fingerprint"])
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"{self.splits / SUMMARY_FILE}: cannot be read ({error})", code="run.broken_summary"
            ) from error

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"


def git_revision() -> str | None:
    """Return the git commit of the working directory, with `-dirty` if tracked files differ; None outside git."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return process.stdout.strip() or None
