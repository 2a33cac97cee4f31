"""The folder of an experiment, with the settings that all its runs share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from train.config.loading import Config
from train.engine.run_folder import RunFolder
from tritonkit.errors import ConfigError
from tritonkit.system.files import atomic_write

SETTINGS_FILE = "experiment.json"


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment: `experiment.json`, and what the kind of experiment writes."""

    path: Path

    @classmethod
    def open(cls, path: Path | None, kind: str, config: Config, options: Mapping[str, JsonValue]) -> ExperimentFolder:
        """Open the folder of an experiment to continue it, or create it.

        path: None for `<output>/<name>/<kind>`. kind: `folds`, `search`, …. options: those that must stay the same in
        an experiment that is continued, as the configuration must. Raises ConfigError for the folder of another
        experiment, and for one that holds something else.
        """
        folder = cls(config.output / config.name / kind if path is None else path)
        settings: dict[str, JsonValue] = {
            "kind": kind,
            "options": dict(options),
            "config": config.model_dump(mode="json"),
        }
        if not folder.settings_file.is_file():
            folder._create(settings)
        elif changes := ", ".join(differences(folder._read(), settings)):
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
            with atomic_write(self.settings_file) as temporary:
                temporary.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be written ({error.strerror}); name another --folder",
                code="experiment.not_writable",
            ) from error

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
