"""`client shadow` and `client compare` on a real Triton that serves two versions, with requests coming in meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from server.process import Server
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.programs import ROOT
from tests.serving import options_for, serving
from tritonkit.errors import NotReadyError, UnknownModelError
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.local_servers import STATE_VARIABLE
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config


@pytest.fixture(scope="module")
def pets(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with four versions of `pets`; Triton loads 1 and 2, and 2 answers.

    1 and 2 are equal, 3 has other weights, 4 crops images in another way.
    """
    repository = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("pets") / "repository"))
    folder = repository / "pets"
    for version in ("2", "3", "4"):
        shutil.copytree(folder / "1", folder / version)
    graph = onnx.load(folder / "3" / "model.onnx")
    draw = np.random.default_rng(0)
    for weights in graph.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim > 1:
            changed = draw.normal(size=values.shape).astype(np.float32)
            weights.CopyFrom(numpy_helper.from_array(changed, weights.name))
    onnx.save(graph, folder / "3" / "model.onnx")
    spec = ModelSpec.read(folder / "4")
    assert spec is not None
    other = spec.preprocess.__class__(height=32, width=32, fit="squash")
    (folder / "4" / METADATA_KEY).write_text(spec.model_copy(update={"preprocess": other}).to_json())
    config = read_config(folder)
    config.version_policy.specific.versions.extend([1, 2])
    (folder / CONFIG_FILE).write_text(config_to_text(config))
    return repository


@pytest.fixture(scope="module")
def triton_of_pets(pets: Path) -> Iterator[Server]:
    with serving(options_for(pets)) as server:
        yield server


class Callers:
    """Sends different images to `pets`, without a version, as long as the block lasts."""

    def __init__(self, server: Server) -> None:
        self._url, self._stopped = server.options.grpc_url, threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def __enter__(self) -> Callers:
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _send(self) -> None:
        draw = np.random.default_rng(1)
        with TritonClient(self._url) as client:
            spec = client.model("pets").spec()
            while not self._stopped.wait(0.005):
                images = draw.integers(0, 256, (1 + self.answered % 8, 32, 32, 3), dtype=np.uint8)
                try:
                    assert client.infer("pets", "", spec, images).version == "2"
                    self.answered += 1
                except Exception as error:  # noqa: BLE001 - counted
                    self.failures.append(repr(error))


def state_of(server: Server) -> dict[str, Any]:
    """What `client shadow` must leave as it was."""
    with server.client(timeout_s=60) as control:
        return {
            "index": sorted(control.index(), key=str),
            "trace": control.trace_settings("pets"),
            "versions": control.versions("pets"),
            "files": sorted(path.name for path in (server.folder / "traces").iterdir()),
        }


@pytest.fixture(params=["gRPC", "HTTP"])
def url(request: pytest.FixtureRequest, triton_of_pets: Server) -> str:
    options = triton_of_pets.options
    return options.grpc_url if request.param == "gRPC" else options.http_url


@pytest.fixture
def tokens(triton_of_pets: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's tokens in the environment, as on a machine that did not start the server."""
    for name, value in ((ADMIN_TOKEN_VARIABLE, triton_of_pets.tokens.admin), (TOKEN_VARIABLE, None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("tokens")
def test_equal_candidate_is_promoted_and_no_live_request_fails(
    command: Command, triton_of_pets: Server, pets: Path, url: str
) -> None:
    before = state_of(triton_of_pets)
    words = ("client", "shadow", "pets", "--candidate", 1, "--share", 1, "--minutes", 2, "--max-changed", 0.05)
    with Callers(triton_of_pets) as callers:
        completed = command(*words, "--url", url, "--repository", pets, "--json")
    assert completed.exit_code == 0, completed.stdout + completed.stderr
    result = json.loads(completed.stdout)
    assert (result["decision"], result["current"], result["changed"]) == ("promote", "2", 0)
    assert result["images"] > result["requests"] > 10
    assert result["high"] < 0.05
    assert result["current_ms"] > 0
    assert result["candidate_ms"] > 0
    assert callers.failures == []
    assert callers.answered >= result["requests"]
    assert state_of(triton_of_pets) == before
    with triton_of_pets.client(timeout_s=60) as control, pytest.raises((NotReadyError, UnknownModelError)):
        control.model("pets_shadow_1", wait=False)


@pytest.mark.usefixtures("tokens")
def test_candidate_with_other_weights_is_kept_back(command: Command, triton_of_pets: Server, pets: Path) -> None:
    before = state_of(triton_of_pets)
    address = triton_of_pets.options.grpc_url
    words = ("client", "shadow", "pets", "--candidate", 3, "--share", 0.5, "--minutes", 2, "--url", address)
    with Callers(triton_of_pets) as callers:
        completed = command(*words, "--repository", pets)
    assert completed.exit_code == 1, completed.stdout + completed.stderr
    assert "\nkeep: at least " in completed.stdout
    assert "builder promote" not in completed.stdout
    assert callers.failures == []
    assert state_of(triton_of_pets) == before


@pytest.mark.usefixtures("tokens")
def test_nothing_is_decided_when_no_request_comes_in(command: Command, triton_of_pets: Server, pets: Path) -> None:
    address = triton_of_pets.options.grpc_url
    words = ("client", "shadow", "pets", "--candidate", 1, "--minutes", 0.01, "--url", address, "--repository", pets)
    completed = command(*words, "--json")
    assert completed.exit_code == 1, completed.stderr
    result = json.loads(completed.stdout)
    assert (result["decision"], result["requests"], result["current_ms"]) == ("undecided", 0, None)


def test_server_is_restored_when_the_command_is_terminated(triton_of_pets: Server, pets: Path) -> None:
    before, address = state_of(triton_of_pets), triton_of_pets.options.grpc_url
    words = ["shadow", "pets", "--candidate", "1", "--minutes", "5", "--url", address, "--repository", str(pets)]
    environment = {"PYTHONPATH": str(ROOT), ADMIN_TOKEN_VARIABLE: triton_of_pets.tokens.admin or "", "PATH": ""}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from client.cli import app; app()", *words],
        env={**environment, STATE_VARIABLE: str(pets.parent / "no state")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 120
        while state_of(triton_of_pets)["trace"]["trace_level"] == "OFF":
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert state_of(triton_of_pets) == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--candidate", 2], "shadow.served_already"),
        (["--candidate", 4], "shadow.input_differs"),
        (["--candidate", 9], "shadow.no_version"),
        (["--candidate", 1, "--trace-file", "/nowhere/trace.json"], "shadow.trace_folder"),
    ],
)
@pytest.mark.usefixtures("tokens")
def test_shadow_refuses_what_cannot_be_mirrored(
    command: Command, triton_of_pets: Server, pets: Path, options: list[object], code: str
) -> None:
    address = triton_of_pets.options.grpc_url
    completed = command("client", "shadow", "pets", *options, "--url", address, "--repository", pets, "--json")
    assert completed.exit_code == 2, completed.stdout
    assert error_codes(completed) == {code}


@pytest.mark.usefixtures("tokens")
def test_shadow_refuses_a_model_whose_requests_are_traced_already(
    command: Command, triton_of_pets: Server, pets: Path
) -> None:
    address = triton_of_pets.options.grpc_url
    with triton_of_pets.client(timeout_s=60) as control:
        control.set_trace("pets", {"trace_level": ["TIMESTAMPS"]})
        try:
            words = ("client", "shadow", "pets", "--candidate", 1, "--url", address, "--repository", pets, "--json")
            completed = command(*words)
        finally:
            control.set_trace("pets", {"trace_level": None})
    assert error_codes(completed) == {"shadow.traced_already"}


@pytest.mark.usefixtures("tokens")
def test_served_versions_are_compared_with_each_other_and_with_a_file(
    command: Command, triton_of_pets: Server, pets: Path, photos: Path
) -> None:
    options = ("--url", triton_of_pets.options.grpc_url, "--json", "--min-agreement", 1)
    same = command("client", "compare", "pets@1", "pets", photos, *options)
    assert same.exit_code == 0, same.stdout + same.stderr
    document = json.loads(same.stdout)
    assert [document[which]["version"] for which in ("old", "new")] == ["1", "2"]
    other = command("client", "compare", "pets@2", pets / "pets" / "3" / "model.onnx", photos, *options)
    assert other.exit_code == 1
    assert json.loads(other.stdout)["changed"] > 0
    missing = command("client", "compare", "pets@3", "pets", photos, *options)
    assert missing.exit_code == 2
    assert error_codes(missing) == {"server.unknown_model"}
