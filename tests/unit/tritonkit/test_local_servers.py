"""The server that is used without an address."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.system import commands
from tritonkit.system.local_servers import STATE_FILE, STATE_VARIABLE, default_url


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], int]]:
    """Write the state file of a running or ended server; return its gRPC port."""
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    listening: list[socket.socket] = []

    def recorded(runs: bool) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        if runs:
            listening.append(listener)
        else:
            listener.close()
        (tmp_path / str(port)).mkdir()
        options = {"repository": "/srv/models", "host": "0.0.0.0", "http_port": 1, "grpc_port": port}
        (tmp_path / str(port) / STATE_FILE).write_text(json.dumps({"options": options, "tokens": {}, "pid": 1}))
        return port

    yield recorded
    for listener in listening:
        listener.close()


@pytest.fixture
def usual() -> str:
    """An address where nothing answers."""
    return f"127.0.0.1:{commands.free_ports()[0]}"


def test_the_only_running_server_is_asked_when_no_address_is_given(
    record: Callable[[bool], int], usual: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(False)
    url = f"127.0.0.1:{record(True)}"
    assert default_url(usual) == url
    printed = capsys.readouterr()
    assert all(part in printed.err for part in (usual, url, "/srv/models"))
    assert not printed.out


def test_an_address_is_asked_for_when_several_servers_run(record: Callable[[bool], int], usual: str) -> None:
    first, second = sorted((record(True), record(True)))
    with raises(InputError, "server.ambiguous") as caught:
        default_url(usual)
    assert re.search(rf"--url: .*:{first} .*:{second} ", str(caught.value))


def test_the_usual_address_stays_when_it_answers_or_no_server_runs(
    record: Callable[[bool], int], usual: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(False)
    assert default_url(usual) == usual
    with socket.create_server(("127.0.0.1", 0)) as listener:
        record(True)
        answering = f"127.0.0.1:{listener.getsockname()[1]}"
        assert default_url(answering) == answering
    assert not capsys.readouterr().err
