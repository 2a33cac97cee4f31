"""Settings of `.env`, as Docker Compose reads them: the environment wins."""

from __future__ import annotations

import os
import re
from pathlib import Path

from model.errors import InputError

ENV_FILE = ".env"


def setting(name: str, repository: Path) -> str | None:
    """The value of a setting, None where it is not set or empty.

    From the environment, else from `.env` beside the repository or in the working folder. Raises InputError for an
    `.env` that cannot be read.
    """
    if os.environ.get(name):
        return os.environ[name]
    for folder in (repository.absolute().parent, Path.cwd()):
        for line in _lines(folder / ENV_FILE, name):
            key, separator, value = line.strip().removeprefix("export ").partition("=")
            if separator and key.strip() == name:
                return _unquoted(value) or None
    return None


def _unquoted(value: str) -> str:
    """The value without its quotes, or, where it has none, without a comment behind it."""
    quote = value.strip()[:1]
    if quote in ("'", '"'):
        return value.strip()[1:].partition(quote)[0]
    return re.split(r"\s#", value)[0].strip()


def _lines(path: Path, name: str) -> list[str]:
    if not path.is_file():
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {name} cannot be read from it ({error}); save it as UTF-8 text, or set {name} in the environment"
        ) from error
