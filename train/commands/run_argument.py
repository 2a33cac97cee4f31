"""The argument RUN of commands on a run: a local folder."""

from __future__ import annotations

from pathlib import Path

from tritonkit.errors import InputError


def run_path(text: str) -> Path:
    """Return the path of a run. Raises InputError for an address."""
    from tritonkit.remotes.addresses import is_address, public_name

    if is_address(text):
        raise InputError(
            f"{public_name(text)}: is an address, and a run is a local folder; copy the folder here, and name the copy",
            code="run.address",
        )
    return Path(text)
