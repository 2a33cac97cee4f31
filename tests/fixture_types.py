"""The types of what the fixtures of conftest.py give."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

from tritonkit.networks.network import Network

Command = Callable[..., Result]
Ports = Callable[[], list[str]]
MakeNetwork = Callable[[str], Network]
NetworkOf = Callable[..., Network]
