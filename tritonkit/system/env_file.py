"""Settings from the environment or from `.env`, with the rules of Docker Compose: the environment has priority."""

from __future__ import annotations

import os
import re
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
        for line in _lines(folder / ENV_FILE, name):
            key, separator, value = line.strip().removeprefix("export ").partition("=")
            if separator and key.strip() == name:
                quote = value.strip()[:1]
                if quote in ("'", '"'):
                    return value.strip()[1:].partition(quote)[0] or None
                return re.split(r"\s#", value)[0].strip() or None  # without the comment
    return None


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
