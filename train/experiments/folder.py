"""The folder of an experiment, with the settings that all its runs share."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from pydantic import JsonValue

from train.config.loading import Config
from train.engine.run_folder import RunFolder
from tritonkit.errors import ConfigError
from tritonkit.system.files import atomic_write

SETTINGS_FILE = "experiment.json"
LOCAL_KEYS = ("output", "devices", "num_nodes", "strategy", "workers")
"""Keys of the configuration that belong to a machine: they may change in an experiment that is continued."""
_TRAINED = ("last.ckpt", "best.safetensors")
"""Files of a run that has completed an epoch, and of one that is finished."""


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment: `experiment.json`, and what the kind of experiment writes."""

    path: Path
    _in_use: TextIO | None = field(default=None, compare=False, repr=False)
    """A file with a lock that all processes of the experiment share, until the `with` block ends or the process."""

    def __enter__(self) -> ExperimentFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_use is not None:
            self._in_use.close()

    @classmethod
    def open(cls, path: Path | None, kind: str, config: Config, options: Mapping[str, JsonValue]) -> ExperimentFolder:
        """Open the folder of an experiment to continue it, or create it.

        path: None for `<output>/<name>/<kind>`. kind: `folds`, `search`, …. options: those that must stay the same in
        an experiment that is continued, as the configuration must but for the keys of the machine. An experiment
        that has not completed an epoch may have other settings: it starts anew, without its subfolders. Raises
        ConfigError for the folder of another experiment, and for one that holds something else.
        """
        path = config.output / config.name / kind if path is None else path
        settings: dict[str, JsonValue] = {
            "kind": kind,
            "options": dict(options),
            "config": config.model_dump(mode="json", exclude=set(LOCAL_KEYS)),
        }
        folder = cls(path)
        if not folder.settings_file.is_file():
            folder._create(settings)
        folder = cls(path, folder._share())
        changes = ", ".join(differences(folder._read(), settings))
        if changes and not folder._start_anew(settings):
            raise ConfigError(
                f"{folder.path}: this experiment was started with other settings ({changes}); use the same ones to "
                "continue it, or start another with --folder DIR",
                code="experiment.other_settings",
            )
        return folder

    @property
    def settings_file(self) -> Path:
        """The kind, the options and the resolved configuration of the experiment."""
        return self.path / SETTINGS_FILE

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes. Raises ConfigError if another process has locked it."""
        return RunFolder(self.path).lock()

    def _create(self, settings: Mapping[str, JsonValue]) -> None:
        # Another process may be creating the same experiment: hidden files are its partial ones.
        ours = (SETTINGS_FILE, ".")
        if self.path.is_dir() and not all(child.name.startswith(ours) for child in self.path.iterdir()):
            raise ConfigError(
                f"{self.path}: is not empty, and no experiment ({SETTINGS_FILE} is missing); name another --folder",
                code="experiment.folder_not_empty",
            )
        try:
            self._write(settings)
        except OSError as error:
            raise self._not_writable(error) from error

    def _write(self, settings: Mapping[str, JsonValue]) -> None:
        with atomic_write(self.settings_file) as temporary:
            temporary.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def _share(self) -> TextIO:
        """Wait until no other process starts the experiment anew, and keep them from it."""
        try:
            file = (self.path / ".in-use").open("w")
        except OSError as error:
            raise self._not_writable(error) from error
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def _start_anew(self, settings: Mapping[str, JsonValue]) -> bool:
        """Delete what was begun with other settings; False if an epoch is complete, or if another process uses it."""
        old = self._read()
        if not isinstance(old, dict) or old.get("kind") != settings["kind"] or self._in_use is None:
            return False
        try:
            fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
            return False
        # A training may outlive its killed experiment for some seconds.
        is_training = any(RunFolder(lock.parent).is_locked() for lock in self.path.rglob(".lock"))
        is_empty = not is_training and not any(any(self.path.rglob(name)) for name in _TRAINED)
        if is_empty:
            for child in self.path.iterdir():
                if child.is_dir():
                    shutil.rmtree(child, ignore_errors=True)
            self._write(settings)
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        return is_empty

    def _not_writable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path}: cannot be written ({error.strerror}); name another --folder",
            code="experiment.not_writable",
        )

    def _read(self) -> JsonValue:
        try:
            settings: JsonValue = json.loads(self.settings_file.read_bytes())
        except ValueError as error:
            raise ConfigError(
                f"{self.settings_file}: is not valid JSON ({error}); name another --folder",
                code="experiment.broken_settings",
            ) from error
        return settings


def differences(old: JsonValue, new: JsonValue, key: str = "") -> Iterator[str]:
    """Describe each value that differs between two documents, by its dotted key."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = name if key in ("", "config", "options") else f"{key}.{name}"
            yield from differences(old.get(name), new.get(name), inner)
    elif old != new:
        yield f"{key}: {json.dumps(old, ensure_ascii=False)} then, {json.dumps(new, ensure_ascii=False)} now"
