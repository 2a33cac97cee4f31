"""`client`: answer images with a model on Triton, or with an artifact in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.api import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Import `Client` on first access, so that `client --help` does not load it."""
    if name == "Client":
        from client.api import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
