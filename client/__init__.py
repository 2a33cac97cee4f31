"""`client`: images become answers, from Triton or from any artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.api import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Load `Client` when it is asked for: `client --help` needs none of it."""
    if name == "Client":
        from client.api import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
