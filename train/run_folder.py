"""The folder of one run: its number, and the files in it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from model.errors import ConfigError
from train.config import Config


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

    @property
    def states(self) -> Path:
        """Lightning's own checkpoints, with the optimizer's state."""
        return self.path / "lightning"

    @property
    def splits(self) -> Path:
        """`train.csv`, `val.csv`, `test.csv`."""
        return self.path / "splits"

    def checkpoint(self, which: str) -> Path:
        """`best` or `last`."""
        return self.path / f"{which}.safetensors"

    def save_config(self, config: Config) -> None:
        """Write the resolved configuration, which `train fit` takes again."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, encoding="utf-8")


def git_revision() -> str | None:
    """The commit of the working directory, with `-dirty` where tracked files differ from it; None without one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return done.stdout.strip() or None
