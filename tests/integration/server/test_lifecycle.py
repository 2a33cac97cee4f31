"""Models of a running server, changed under load: no request fails, whatever is published."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from server.process import Server
from tests.fixture_types import Command, Ports
from tests.serving import options_for, serving

ENSEMBLE = """
name: "relay" platform: "ensemble" max_batch_size: 8
input { name: "image" data_type: TYPE_UINT8 dims: [32, 32, 3] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [3] }
ensemble_scheduling { step {
  model_name: "pets" model_version: -1
  input_map { key: "image" value: "image" } output_map { key: "probabilities" value: "probabilities" }
} }
"""


def repository_with_ensemble(exported_once: Path, folder: Path) -> Path:
    """A repository with `pets` and the ensemble `relay`, which needs it."""
    repository = folder / "repository"
    shutil.copytree(exported_once / "pets", repository / "pets")
    (repository / "relay" / "1").mkdir(parents=True)
    (repository / "relay" / "config.pbtxt").write_text(ENSEMBLE)
    return repository


@pytest.fixture(scope="module")
def live(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose repository the tests change, each to leave `pets` as it was: version 1 alone, loaded."""
    with serving(options_for(repository_with_ensemble(exported_once, tmp_path_factory.mktemp("live")))) as server:
        yield server


@pytest.fixture
def pets(live: Server, command: Command) -> Iterator[Path]:
    """The folder of the model, with its version 1."""
    folder = live.options.repository / "pets"
    config = (folder / "config.pbtxt").read_text()
    yield folder
    (folder / "config.pbtxt").write_text(config)
    for version in folder.glob("[2-9]*"):
        shutil.rmtree(version)
    assert command("server", "load", "pets", "relay").exit_code == 0


def publish(pets: Path, damaged: bool = False) -> str:
    """Add the next version, a copy of the first."""
    version = str(1 + max(int(path.name) for path in pets.iterdir() if path.name.isdigit()))
    shutil.copytree(pets / "1", pets / f".{version}")
    if damaged:
        os.truncate(pets / f".{version}" / "model.onnx", 3000)
    (pets / f".{version}").rename(pets / version)
    return version


class TrafficResults:
    """What requests under way were answered: the version, or why not."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.failures: list[str] = []

    def ask(self, address: str, model: str) -> None:
        client = tritonclient.grpc.InferenceServerClient(address)
        tensor = tritonclient.grpc.InferInput("image", [1, 32, 32, 3], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, 32, 32, 3), np.uint8))
        try:
            answer = client.infer(model, [tensor], client_timeout=30)
            if model == "pets":
                self.versions.append(answer.get_response().model_version)
        except InferenceServerException as error:
            self.failures.append(f"{model}: {error.message()}")
        finally:
            client.close()


@contextmanager
def traffic(server: Server) -> Iterator[TrafficResults]:
    """Requests for the model and its ensemble, one after the other in three threads, while the block runs."""
    results, over = TrafficResults(), threading.Event()

    def send_requests() -> None:
        for model in itertools.cycle(("pets", "relay")):
            if over.is_set():
                return
            results.ask(server.options.grpc_url, model)

    threads = [threading.Thread(target=send_requests) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        over.set()
        for thread in threads:
            thread.join()


def health(server: Server) -> int:
    with urllib.request.urlopen(f"{server.options.http_url}/v2/health/ready", timeout=5) as answer:
        return int(answer.status)


def test_good_version_goes_on_answering_when_a_damaged_one_is_published_under_load(
    live: Server, pets: Path, command: Command
) -> None:
    with traffic(live) as results:
        version = publish(pets, damaged=True)
        refused = command("server", "reload")
        republished = command("server", "reload", "pets", "--json")
    assert results.failures == []
    assert set(results.versions) == {"1"}
    assert refused.exit_code == republished.exit_code == 1
    assert f"pets could not be loaded: version {version}: " in refused.stderr
    assert "Protobuf parsing failed; version 1 keeps serving" in refused.stderr
    document = json.loads(republished.stdout)["document"]
    assert (document[0]["model"], document[0]["before"], document[0]["after"]) == ("pets", ["1"], ["1"])
    assert health(live) == 200, "a load balancer must not take the server away"
    status = command("server", "status")
    assert status.exit_code == 0
    assert re.search(rf"pets\s+{version}\s+UNAVAILABLE", status.stdout)
    assert f"pets version {version}: Internal: " in status.stdout


def test_good_version_goes_on_answering_when_the_configuration_is_broken_under_load(
    live: Server, pets: Path, command: Command
) -> None:
    with traffic(live) as results:
        (pets / "config.pbtxt").write_text((pets / "config.pbtxt").read_text() + "nonsense {")
        refused = command("server", "reload", "pets")
    assert results.failures == []
    assert refused.exit_code == 1
    assert "failed to read text proto from" in refused.stderr
    assert "; version 1 keeps serving" in refused.stderr


def test_versions_change_without_a_failed_request_when_they_are_reloaded_under_load(
    live: Server, pets: Path, command: Command
) -> None:
    config = (pets / "config.pbtxt").read_text()
    with traffic(live) as results:
        newer = publish(pets)
        up = command("server", "reload", "pets")
        answered = len(results.versions)
        (pets / "config.pbtxt").write_text(config + "version_policy { specific { versions: [1] } }")
        back = command("server", "reload", "--json")
    assert results.failures == []
    assert f"pets: version 1 -> {newer}" in up.stdout, up.stderr
    assert set(results.versions[:answered]) <= {"1", newer}
    changes = {change["model"]: change for change in json.loads(back.stdout)}
    assert changes["pets"] == {"model": "pets", "before": [newer], "after": ["1"], "problem": "", "warning": ""}
    with traffic(live) as later:
        assert command("server", "reload").exit_code == 0
    assert set(later.versions) <= {"1"}


def test_model_and_its_ensemble_stop_answering_when_the_model_is_unloaded(
    live: Server, pets: Path, command: Command
) -> None:
    unloaded = command("server", "unload", "pets", "--json")
    assert {change["model"]: change["after"] for change in json.loads(unloaded.stdout)} == {"pets": [], "relay": []}
    status = command("server", "status")
    assert status.exit_code == 0, "nobody misses what was unloaded"
    assert "no model is loaded" in command("server", "reload").stdout, "what was unloaded stays so"
    assert "relay: version none -> 1" in command("server", "load", "relay").stdout
    with traffic(live) as results:
        pass
    assert results.failures == []


def test_reload_takes_up_a_model_that_is_new(live: Server, pets: Path, command: Command) -> None:
    copy = Path(shutil.copytree(pets, pets.parent / "dogs"))
    (copy / "config.pbtxt").write_text((copy / "config.pbtxt").read_text().replace('name: "pets"', 'name: "dogs"', 1))
    try:
        assert "dogs: version none -> 1" in command("server", "reload").stdout
    finally:
        command("server", "unload", "dogs")
        shutil.rmtree(copy)


def test_status_counts_requests_and_failures(live: Server, pets: Path, command: Command) -> None:
    def counted() -> dict[str, int]:
        rows = json.loads(command("server", "status", "--json").stdout)[0]["models"]
        return next(row for row in rows if row["model"] == "pets" and row["state"] == "READY")

    before = counted()
    results = TrafficResults()
    for _ in range(3):
        results.ask(live.options.grpc_url, "pets")
    after = counted()
    assert after["requests"] - before["requests"] == 3
    assert after["images"] - before["images"] == 3
    assert after["failures"] == before["failures"]
    assert after["mean_batch"] >= 1.0
    assert after["queue_us"] > 0


@pytest.mark.parametrize("name", ["../pets", "/etc", ".staging", "", "pets/1", "pets%2f.."])
@pytest.mark.parametrize("verb", ["load", "unload", "reload"])
def test_name_that_leads_out_of_the_repository_is_refused(live: Server, command: Command, verb: str, name: str) -> None:
    completed = command("server", verb, name, "--json")
    assert completed.exit_code == 2
    assert json.loads(completed.stdout)["error"]["code"] == "repository.model_name"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--url", "localhost:1", "--grpc-port", "1"), "option.conflict"),
        (("--tls-ca", "ca.pem"), "option.needs_url"),
        (("--tls-key", "key.pem", "--grpc-port", "1"), "option.needs_url"),
    ],
)
@pytest.mark.parametrize("verb", [("status",), ("reload",), ("load", "pets"), ("unload", "pets")])
def test_options_that_would_be_passed_over_are_refused(
    command: Command, verb: tuple[str, ...], options: tuple[str, ...], code: str
) -> None:
    completed = command("server", *verb, *options, "--json")
    assert (completed.exit_code, json.loads(completed.stdout)["error"]["code"]) == (2, code), completed.output


def test_unknown_model_is_refused_with_the_names_there_are(live: Server, command: Command) -> None:
    for verb in ("load", "unload", "reload"):
        completed = command("server", verb, "cats", "--json")
        assert completed.exit_code == 2
        assert json.loads(completed.stdout)["error"]["code"] == "repository.no_model"
        assert "'cats'" in completed.stderr
        assert "pets, relay" in completed.stderr


@pytest.mark.usefixtures("own_state")
def test_server_loads_what_an_ensemble_needs_and_no_more_when_models_are_named(
    exported_once: Path, tmp_path: Path, command: Command, free_ports: Ports
) -> None:
    repository = repository_with_ensemble(exported_once, tmp_path)
    shutil.copytree(repository / "pets", repository / "broken")  # its config.pbtxt has the other's name
    up = command("server", "up", "--repository", repository, "--model", "relay", *free_ports())
    assert up.exit_code == 0, up.stderr
    rows = json.loads(command("server", "status", "--json").stdout)[0]["models"]
    assert [row["model"] for row in rows if row["state"] == "READY"] == ["pets", "relay"]
    assert command("server", "reload").exit_code == 0, "what was not asked for is not loaded later either"
    outside = command(
        "server", "up", "--repository", repository, "--model", "../repository/pets", *free_ports(), "--json"
    )
    assert outside.exit_code == 2
    assert json.loads(outside.stdout)["error"]["code"] == "repository.no_model"
    assert "broken, pets, relay" in outside.stderr
