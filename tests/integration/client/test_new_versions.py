"""Clients of a real Triton that loads another version of their model meanwhile."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import Client
from client.results import LabelResult
from server.process import Server
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.serving import options_for, serving
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import InferenceError, NotReadyError, TritonkitError
from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import METADATA_KEY, Architecture, Lineage, ModelSpec, Normalize, TensorSpec, image_input
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection
from tritonkit.triton.model_config import CONFIG_FILE, LAST_VERSION, config_to_text, read_config, versions_of
from tritonkit.triton.runner import TritonRunner
from tritonkit.triton.served_model import changed_answer_fields

IMAGE: ImageArray = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SWAPPED = {"labels": ("dog", "cat", "bird")}


@dataclass(frozen=True)
class Pets:
    """The model `pets`, its repository and the server that has it."""

    server: Server
    grpc: str
    http: str
    folder: Path

    def first(self) -> str:
        """The version that is served, which is as the first one."""
        served = ModelSpec.from_json(read_config(self.folder).parameters[METADATA_KEY].string_value, "config.pbtxt")
        same = served == self.spec and read_config(self.folder).max_batch_size == 8
        return TritonClient(self.grpc).version("pets") if same else self.publish()

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_json((self.folder / "1" / METADATA_KEY).read_text(), "version 1")

    def publish(self, max_batch: int = 8, **changes: object) -> str:
        """Add a version whose spec differs from the first one's in `changes`, and have the server load it alone."""
        version = str(versions_of(self.folder)[-1] + 1)
        shutil.copytree(self.folder / "1", self.folder / version)
        self.describe(version, max_batch, **changes)
        return version

    def describe(self, version: str, max_batch: int = 8, **changes: object) -> None:
        """Have the server load this version alone, with a spec that differs from the first one's in `changes`."""
        spec = self.spec.model_copy(update=changes).to_json()
        (self.folder / version / METADATA_KEY).write_text(spec)
        config = read_config(self.folder)
        config.ClearField("version_policy")
        config.max_batch_size = max_batch
        config.parameters[METADATA_KEY].string_value = spec
        config.parameters[LAST_VERSION].string_value = version
        (self.folder / CONFIG_FILE).write_text(config_to_text(config))
        self.reload()

    def reload(self) -> None:
        with self.server.client(timeout_s=60) as control:
            control.load("pets")


@pytest.fixture(scope="module")
def pets(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pets]:
    repository = tmp_path_factory.mktemp("versions") / "repository"
    shutil.copytree(exported_once / "pets", repository / "pets")
    with serving(options_for(repository)) as server:
        yield Pets(server, server.options.grpc_url, server.options.http_url, repository / "pets")


def test_clients_end_with_an_error_when_a_new_version_swaps_labels(pets: Pets) -> None:
    pets.first()
    with Client("pets", pets.grpc) as client, Client("pets", pets.http) as over_http:
        before = client.infer(IMAGE)
        assert over_http.infer(IMAGE).fields["label"] == before.fields["label"]
        version = pets.publish(**SWAPPED)
        pattern = rf"version {version} .* labels"
        for opened_client in (client, over_http):
            with pytest.raises(InferenceError, match=pattern):
                opened_client.infer(IMAGE)
            with pytest.raises(InferenceError, match=pattern):
                opened_client.infer_many([IMAGE] * 40)
    with Client("pets", pets.grpc) as client:
        after = client.infer(IMAGE)
    assert isinstance(before, LabelResult)
    assert isinstance(after, LabelResult)
    assert after.label == {"cat": "dog", "dog": "cat"}.get(before.label, before.label)


def test_difference_is_named_when_answers_would_be_misread(spec: ModelSpec) -> None:
    larger = replace(spec.preprocess, height=40)
    changes: dict[str, Any] = {
        "preprocess": replace(spec.preprocess, interpolation="bicubic"),
        "thresholds": {"cat": 0.9},
        "outputs": (TensorSpec(name="probabilities", dtype="FP32", shape=(4,)),),
        "task": "multilabel",
    }
    for field, value in changes.items():
        assert changed_answer_fields(spec, spec.model_copy(update={field: value})) == [field]
    resized = spec.model_copy(update={"preprocess": larger, "input": image_input(larger)})
    assert changed_answer_fields(spec, resized) == ["input", "preprocess"]
    inside = {"architecture": Architecture(name="resnet18"), "normalize": Normalize(mean=(0,) * 3, std=(1,) * 3)}
    assert not changed_answer_fields(spec, spec.model_copy(update=inside))


def test_change_is_reported_when_a_new_version_refuses_a_request_because_of_it(pets: Pets) -> None:
    pets.first()
    with TritonRunner(TritonClient(pets.grpc), "pets") as runner:
        pets.publish(max_batch=2)
        with pytest.raises(InferenceError, match="max_batch_size"):
            runner.infer(np.stack([IMAGE] * 4))
        runner.infer(IMAGE[None])


def test_runner_goes_on_and_looks_once_when_a_new_version_takes_and_gives_the_same(pets: Pets) -> None:
    pets.first()
    server = Counting(pets.grpc)
    with TritonRunner(server, "pets") as runner:
        before = [runner.infer(IMAGE[None])["probabilities"] for _ in range(5)]
        pets.publish(lineage=Lineage(note="trained for longer"))
        after = [runner.infer(IMAGE[None])["probabilities"] for _ in range(5)]
    assert np.allclose(after, before, atol=1e-6)
    assert server.read == 3  # when it was opened, and once for each version that answered


class Counting(TritonClient):
    read = 0

    def config(self, model: str, version: str = "", wait: bool = True) -> dict[str, Any]:
        self.read += 1
        return super().config(model, version, wait)


def test_pinned_client_goes_on_when_its_version_comes_back_in_time(pets: Pets, command: Command) -> None:
    first = pets.first()
    messages: list[str] = []

    def bring_back(error: TritonkitError) -> None:
        messages.append(str(error))
        if len(messages) == 1:
            promoted = command("builder", "promote", "pets", first, "--repository", pets.folder.parent)
            assert promoted.exit_code == 0, promoted.output
            pets.reload()

    server = TritonClient(Connection(url=pets.grpc, patience_s=60), bring_back)
    with TritonRunner(server, "pets").pin_version() as runner:
        before = runner.infer(IMAGE[None])
        second = pets.publish(**SWAPPED)
        after = runner.infer(IMAGE[None])
    assert np.allclose(after["probabilities"], before["probabilities"], atol=1e-6)
    assert f"version {first} " in messages[0]
    assert f"version {second} " in messages[0]


def test_error_names_the_command_that_loads_an_unloaded_model(pets: Pets) -> None:
    pets.first()
    with TritonRunner(TritonClient(pets.grpc), "pets") as runner, pets.server.client() as control:
        runner.infer(IMAGE[None])
        control.unload("pets")
        with pytest.raises(NotReadyError, match=r"`server load pets`"):
            runner.infer(IMAGE[None])
        pets.reload()
        runner.infer(IMAGE[None])


def test_version_is_compared_again_after_it_was_unloaded(pets: Pets) -> None:
    version = pets.publish()
    with TritonRunner(TritonClient(pets.grpc), "pets", version) as runner, pets.server.client() as control:
        runner.infer(IMAGE[None])
        control.unload("pets")
        with pytest.raises(NotReadyError):
            runner.infer(IMAGE[None])
        pets.describe(version, **SWAPPED)
        with pytest.raises(InferenceError, match=rf"version {version} .* labels"):
            runner.infer(IMAGE[None])


class Site(Quiet, SimpleHTTPRequestHandler):
    """Pictures of a folder; before it gives `middle.png` it calls the server's `meanwhile`, once."""

    server: Any

    def do_GET(self) -> None:
        if self.path == "/middle.png":
            with self.server.lock:
                self.server.meanwhile()
                self.server.meanwhile = lambda: None
        super().do_GET()


@contextmanager
def site(folder: Path, meanwhile: Callable[[], object]) -> Iterator[str]:
    server: Any = ThreadingHTTPServer(ANY_PORT, partial(Site, directory=str(folder)))
    server.lock, server.meanwhile = threading.Lock(), meanwhile
    with listening(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_job_with_output_goes_on_when_the_version_it_was_begun_with_is_back(
    pets: Pets, command: Command, digits: Path, tmp_path: Path
) -> None:
    first = pets.first()
    shutil.copytree(digits / "7", tmp_path / "given")
    pictures = sorted((tmp_path / "given").iterdir())[:60]
    pictures[40].rename(tmp_path / "given" / "middle.png")
    pictures[40] = tmp_path / "given" / "middle.png"
    output, job = tmp_path / "a.jsonl", tmp_path / "a.jsonl.job"
    with site(tmp_path / "given", lambda: pets.publish(**SWAPPED)) as address:
        addresses = [f"{address}/{path.name}" for path in pictures]
        words = ("client", "infer", *addresses, "--url", pets.grpc, "--output", output, "--batch", 1)
        ended = command(*words, "--patience", 0.2)
        assert ended.exit_code == 3, ended.output
        assert f"`builder promote pets {first}`" in ended.stderr
        assert "`server reload pets`" in ended.stderr
        assert f"rows are kept in {job}; " in ended.stderr
        with contextlib.closing(sqlite3.connect(job)) as database:
            kept_rows = [text for (text,) in database.execute("SELECT json FROM row ORDER BY id")]
        assert 1 <= len(kept_rows) <= 40
        refused = command(*words, "--patience", 0.2, "--json")  # the job was started with another version
        assert (refused.exit_code, error_codes(refused)) == (2, {"output.other_settings"}), refused.stderr
        assert "version: " in refused.stderr
        assert command("builder", "promote", "pets", first, "--repository", pets.folder.parent).exit_code == 0
        pets.reload()
        completed = command(*words)
    assert completed.exit_code == 0, completed.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["path"] for row in rows] == addresses
    assert output.read_text().splitlines()[: len(kept_rows)] == kept_rows
