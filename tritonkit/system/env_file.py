"""Settings from the environment or from `.env`, with the rules of Docker Compose: the environment has priority."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tritonkit.errors import InputError

ENV_FILE = ".env"


def setting(name: str, repository: Path) -> str | None:
    """Return the value of a setting, None if it is not set or empty.

    It is read from the environment, else from `.env` next to the repository or in the working folder. Raises
    InputError for an `.env` that cannot be read.
    """
    if os.environ.get(name):
        return os.environ[name]
    for folder in (repository.absolute().parent, Path.cwd()):
        for key, value in _pairs(folder / ENV_FILE, name):
            if key == name:
                return value or None
    return None


def settings_with_prefix(*prefixes: str) -> dict[str, str]:
    """Return the settings whose names begin with a prefix.

    They are read from the environment, else from `.env` in the working folder. Raises InputError for an `.env` that
    cannot be read.
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(prefixes) and value}
    for name, value in _pairs(Path.cwd() / ENV_FILE, f"{prefixes[0]}…"):
        if name.startswith(prefixes) and value:
            found.setdefault(name, value)
    return found


def _pairs(path: Path, purpose: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of a file; `purpose` names, in errors, what is read from it."""
    for line in _lines(path, purpose):
        key, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator:
            quote = value.strip()[:1]
            if quote in ("'", '"'):
                yield key.strip(), value.strip()[1:].partition(quote)[0]
            else:
                yield key.strip(), re.split(r"\s#", value)[0].strip()  # without the comment


def _lines(path: Path, name: str) -> list[str]:
    if not path.is_file():
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {name} cannot be read from it ({error}); save it as UTF-8 text, or set {name} in the environment",
            code="env_file.unreadable",
        ) from error
