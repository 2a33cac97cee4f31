"""A Triton that dies is started again, once it was ready; one that is lines to end ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from server.process import Options, Server, running_servers, stop
from server.runtimes.table import runtime_of
from server.security import RequestTokens
from server.supervisor import REFUSED_PREFIX, RESTART_PREFIX, SUPERVISOR_FILE
from tests.fixture_types import Command, Ports

DIES = "echo began; kill -SEGV $$"
LIVES = "sleep 60 & trap 'kill $!; exit 7' TERM; echo began; wait"


@contextmanager
def supervised(ready: Path, script: str, *check: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-I", str(SUPERVISOR_FILE), str(ready), json.dumps(check), "/bin/sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_death_before_it_was_ready_is_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path / "ready", DIES) as process:
        printed, _ = process.communicate(timeout=20)
    assert (printed, process.returncode) == ("began\n", 128 + signal.SIGSEGV)


@pytest.mark.parametrize(("check", "code"), [("exit 0", 0), ("exit 3", 3)])
def test_restart_needs_its_check(tmp_path: Path, check: str, code: int) -> None:
    (tmp_path / "ready").touch()
    script = f"echo began; if [ -e {tmp_path}/once ]; then exit 0; fi; touch {tmp_path}/once; kill -SEGV $$"
    with supervised(tmp_path / "ready", script, "/bin/sh", "-c", check) as process:
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert (printed.count("began"), REFUSED_PREFIX in printed) == ((1, True) if code else (2, False))


def test_pauses_grow_when_it_dies_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    with supervised(tmp_path / "ready", DIES) as process:
        lines = [line(process) for _ in range(4)]
    pauses = f"{RESTART_PREFIX} in {{}} s: Triton ended with signal 11\n"
    assert lines == ["began\n", pauses.format(1), "began\n", pauses.format(2)]


@pytest.mark.usefixtures("own_state")
def test_restart_is_counted_when_triton_died_in_the_middle_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    server = Server(options=Options(repository=tmp_path), tokens=RequestTokens(admin="a"))
    server.folder.mkdir(parents=True)
    with supervised(tmp_path / "ready", "printf 'I1121 half a'; kill -SEGV $$") as process:
        server.log.write_text(line(process))
    assert server.log.read_text().startswith("I1121 half a" + RESTART_PREFIX)
    assert runtime_of(server).restart_count(server) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_wish_to_end_is_passed_on_and_its_exit_code_returned(tmp_path: Path, number: int) -> None:
    (tmp_path / "ready").touch()
    with supervised(tmp_path / "ready", LIVES) as process:
        line(process)
        os.kill(process.pid, number)
        assert process.wait(10) == 7


def test_wish_to_end_is_heard_in_a_pause(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    with supervised(tmp_path / "ready", DIES) as process:
        line(process), line(process)
        process.terminate()
        assert process.wait(10) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_child_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path / "ready", LIVES) as process:
        line(process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.usefixtures("own_state")
def test_server_answers_again_after_triton_died(
    command: Command, tiny_repository: Path, free_ports: Ports, photos: Path
) -> None:
    up = ("server", "up", "--repository", tiny_repository, *free_ports())
    first = command(*up)
    assert first.exit_code == 0, first.stderr
    running = running_servers()[0]
    try:
        assert json.loads(command("server", "status", "--json").stdout)[0]["restarts"] == 0
        (triton,) = psutil.Process(running.pid).children()
        assert triton.name() == "tritonserver"
        triton.send_signal(signal.SIGSEGV)
        triton.wait(30)
        assert command(*up).exit_code, "its ports are taken, though nobody may hold them now"
        assert running_servers() == [running]
        ask = ("client", "infer", photos / "cat.jpg", "--model", "pets", "--url", running.options.grpc_url)
        assert command(*ask, "--wait", 60).exit_code == 0
        until(running.is_ready)
        assert "restarted 1 time" in command("server", "status").stdout
        assert "Triton ended with signal 11" in command("server", "logs", "-n", 1000).stdout
        processes = psutil.Process(running.pid).children(recursive=True)
    finally:
        stop(running)
    assert not psutil.wait_procs(processes, timeout=1)[1]
    assert running_servers() == []
