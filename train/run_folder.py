"""The folder of one run: its number, and the files in it."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from model.errors import ConfigError
from train.config import Config, load_config
from train.data import FACTS_FILE


@dataclass(frozen=True)
class RunFolder:
    """`<output>/<name>/<number>`."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Make the folder of the next free number; two runs that start at once get two. Raises ConfigError."""
        parent = config.output / config.name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                taken = [int(child.name) for child in parent.iterdir() if child.name.isdecimal()]
                try:
                    path = parent / str(max(taken, default=0) + 1)
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise ConfigError(f"output: no run folder can be made in {parent}: {error}") from error
        return cls(path)

    @classmethod
    def of_run(cls, path: Path) -> RunFolder:
        """The folder of a run that was stopped. Raises ConfigError for any other."""
        run = cls(path)
        if not (run._config.is_file() and (run.splits / FACTS_FILE).is_file()):
            raise ConfigError(f"{path}: not the folder of a run, which has config.yaml and splits/{FACTS_FILE}")
        if run.checkpoint("best").is_file():
            raise ConfigError(f"{path}: the run is finished, {run.checkpoint('best')} is its best checkpoint")
        return run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away from the folder. Raises ConfigError when one is there."""
        place = self.path / ".lock"
        with place.open("w") as lock:
            try:
                # Of this process alone: loader workers that outlive a killed one do not hold it.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"{self.path}: another process is training there; wait for it, or stop it") from error
            try:
                yield
            finally:
                place.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what a process that was killed had half written."""
        for left in self.path.rglob(".*.partial"):
            left.unlink(missing_ok=True)

    @property
    def states(self) -> Path:
        """Lightning's own checkpoints, with the optimizer's state."""
        return self.path / "lightning"

    @property
    def last_state(self) -> Path:
        """The state after the last epoch that was finished."""
        return self.states / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """The figures after each epoch."""
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The losses and metrics over the epochs, to look at."""
        return self.path / "curves.png"

    @property
    def batches(self) -> Path:
        """Training pictures as the network gets them."""
        return self.path / "batches.png"

    @property
    def predictions(self) -> Path:
        """Validation pictures with what the best epoch says of them."""
        return self.path / "predictions.png"

    def confusion(self, head: str) -> Path:
        """What the best epoch took for what; `head` is empty for a model of one."""
        return self.path / (f"confusion.{head}.png" if head else "confusion.png")

    @property
    def splits(self) -> Path:
        """`train.csv`, `val.csv`, `test.csv`, and `data.json`."""
        return self.path / "splits"

    def checkpoint(self, which: str) -> Path:
        """`best`, `best-2`, …, or `last`."""
        return self.path / f"{which}.safetensors"

    def save_config(self, config: Config) -> None:
        """Write the resolved configuration, which `train fit` takes again."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._config.write_text(text, encoding="utf-8")

    def load_config(self) -> Config:
        """The configuration the run was begun with. Raises ConfigError."""
        return load_config(self._config)

    def fingerprint(self) -> str:
        """Of the data the run was begun with. Raises ConfigError."""
        try:
            return str(json.loads((self.splits / FACTS_FILE).read_text())["fingerprint"])
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{self.splits / FACTS_FILE}: cannot be read ({error})") from error

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"


def git_revision() -> str | None:
    """The commit of the working directory, with `-dirty` where tracked files differ from it; None without one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return done.stdout.strip() or None
