"""A real Triton for as long as a test or a fixture needs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.process import Options, Server, start, stop, wait_until_ready
from tritonkit.system.commands import free_ports
from tritonkit.system.local_servers import STATE_VARIABLE


def options_for(repository: Path, **further: Any) -> Options:
    """The options of a server of this repository on free ports."""
    http, grpc, metrics = free_ports()
    return Options(repository=repository, http_port=http, grpc_port=grpc, metrics_port=metrics, **further)


@contextmanager
def serving(options: Options) -> Iterator[Server]:
    """Start a server with a state folder of its own, wait until it is ready, and stop it when the block ends."""
    with tempfile.TemporaryDirectory() as state, pytest.MonkeyPatch.context() as environment:
        environment.setenv(STATE_VARIABLE, state)
        server = start(options, stops_with_parent=True)
        try:
            wait_until_ready(server, timeout_s=180)
            yield server
        finally:
            environment.setenv(STATE_VARIABLE, state)  # a fixture that lives longer may have changed it
            stop(server)
