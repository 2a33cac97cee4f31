"""A Triton that dies while a version lies there that it cannot load: it comes back with everything else."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.process import Server, running_servers
from tests.fixture_types import Command, Ports
from tests.serving import options_for, serving


def copy_model(pets: Path, name: str) -> Path:
    """The same model under another name."""
    copy = Path(shutil.copytree(pets, pets.parent / name))
    config = (copy / "config.pbtxt").read_text()
    (copy / "config.pbtxt").unlink()
    (copy / "config.pbtxt").write_text(config.replace('name: "pets"', f'name: "{name}"', 1))
    return copy


@pytest.fixture
def repository(exported_once: Path, tmp_path: Path) -> Path:
    """Two models, `pets` and `dogs`."""
    pets = Path(shutil.copytree(exported_once / "pets", tmp_path / "repository" / "pets"))
    return copy_model(pets, "dogs").parent


@pytest.fixture
def running(repository: Path) -> Iterator[Server]:
    with serving(options_for(repository)) as server:
        yield server


def damage(version: Path) -> None:
    content = (version / "model.onnx").read_bytes()[:3000]
    (version / "model.onnx").unlink()  # it may be a link of other copies
    (version / "model.onnx").write_bytes(content)


def states(command: Command) -> dict[tuple[str, str], str]:
    models = json.loads(command("server", "status", "--json").stdout)[0]["models"]
    return {(row["model"], row["version"]): row["state"] for row in models}


def test_other_models_answer_again_when_triton_died_beside_a_version_that_does_not_load(
    running: Server, command: Command, photos: Path
) -> None:
    pets = running.options.repository / "pets"
    shutil.copytree(pets / "1", pets / "2")
    damage(pets / "2")
    refused = command("server", "reload")
    assert refused.exit_code == 1
    assert "version 1 keeps serving" in refused.stderr
    undo = f"builder rollback pets --repository {running.options.repository}"
    assert undo in refused.stderr

    (triton,) = psutil.Process(running.pid).children()
    triton.send_signal(signal.SIGSEGV)
    triton.wait(30)
    ask = ("client", "infer", photos / "cat.jpg", "--url", running.options.grpc_url, "--wait", 60)
    assert command(*ask, "--model", "dogs").exit_code == 0
    assert states(command) == {("dogs", "1"): "READY", ("pets", "2"): "UNAVAILABLE"}
    status = command("server", "status")
    assert (status.exit_code, "restarted 1 time" in status.stdout) == (1, True)

    assert command(*undo.split()).exit_code == 0
    assert "pets: version none -> 1" in command("server", "reload").stdout
    assert command(*ask, "--model", "pets").exit_code == 0


@pytest.mark.usefixtures("own_state")
def test_start_fails_and_leaves_nothing_when_some_of_the_models_do_not_load(
    repository: Path, command: Command, free_ports: Ports
) -> None:
    damage(repository / "dogs" / "1")
    (copy_model(repository / "pets", "birds") / "config.pbtxt").write_text("nonsense {")
    up = command("server", "up", "--force", "--repository", repository, *free_ports(), "--json")
    assert (up.exit_code, running_servers()) == (3, [])
    assert json.loads(up.stdout)["error"]["code"] == "server.model_not_loaded"
    assert "birds, dogs" in up.stderr
    assert "model birds: failed to read text proto" in up.stderr
    assert re.search("model dogs version 1: .*Protobuf", up.stderr)
