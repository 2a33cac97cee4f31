"""A served search model: its answers by `client infer` and in Python, and a gallery that grows while it is searched."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.index.publish import index
from builder.index.request import IndexRequest
from client import Client
from client.results import SearchResult
from server.process import Server
from tests.errors import error_codes
from tests.fixture_types import Command, NetworkOf
from tests.galleries import EMBEDDING_SIZE, pixels, write_classes
from tests.serving import options_for, serving
from tritonkit.networks.network import save_network
from tritonkit.spec import TaskSpec
from tritonkit.tasks.search import UNKNOWN
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE
from tritonkit.triton.model_config import versions_of

MODEL = "hues_search"


@dataclass(frozen=True)
class Served:
    """A Triton with a search model, and what it was made of."""

    server: Server
    embedder: Path
    gallery: Path
    repository: Path

    @property
    def url(self) -> str:
        return self.server.options.grpc_url

    @property
    def artifact(self) -> Path:
        """The file of the newest version, which Triton serves."""
        model = self.repository / MODEL
        return model / str(versions_of(model)[-1]) / "model.onnx"

    def add(self, images: Path) -> int:
        """Publish the next version with these images too, and load it."""
        request = IndexRequest(checkpoint=self.embedder, gallery=images, repository=self.repository, add=True)
        published = index(request).published
        with self.server.client(timeout_s=60) as control:
            control.load(MODEL)
        return published.version


def publish_approximate(embedder: Path, images: Path, repository: Path, add: bool = False) -> None:
    """Publish the model `hues_near` with a FAISS index, or its next version with more images."""
    settings: dict[str, Any] = {} if add else {"approximate": True, "false_accept": 0.2, "neighbors": 4, "max_batch": 8}
    index(
        IndexRequest(checkpoint=embedder, gallery=images, repository=repository, name="hues_near", add=add, **settings)
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("searched")
    gallery, repository = write_classes(folder / "gallery", range(6), range(5)), folder / "repository"
    network = network_of(TaskSpec(task="embedding", embedding_size=EMBEDDING_SIZE))
    save_network(folder / "hues.safetensors", network, network.spec.renamed("hues"))
    index(
        IndexRequest(
            checkpoint=folder / "hues.safetensors",
            gallery=gallery,
            repository=repository,
            false_accept=0.2,
            neighbors=4,
            max_batch=8,
        )
    )
    publish_approximate(folder / "hues.safetensors", gallery, repository)
    with serving(options_for(repository)) as server:
        yield Served(server, folder / "hues.safetensors", gallery, repository)


def test_triton_and_the_file_answer_alike(command: Command, searched: Served, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pictures", (1, 11), (0, 9))
    model = ("--url", searched.url, "--model", MODEL)
    arguments = ("client", "infer", folder, "--top", "4", "--output")
    rows = []
    for name, source in (("served", model), ("file", ("--from", searched.artifact))):
        answer = command(*arguments, tmp_path / f"{name}.jsonl", *source, "--output", tmp_path / f"{name}.csv")
        assert answer.exit_code == 0, answer.output
        rows.append(list(map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())))
    for served, local in zip(*rows, strict=True):
        assert (served["path"], served["label"]) == (local["path"], local["label"])
        assert [item["path"] for item in served["neighbors"]] == [item["path"] for item in local["neighbors"]]
        assert served["distance"] == pytest.approx(local["distance"], abs=1e-5)
    known = next(row for row in rows[0] if row["path"].endswith("hue1/0.png"))
    assert (known["label"], known["neighbors"][0]["path"], len(known["neighbors"])) == ("hue1", "hue1/0.png", 4)
    with (tmp_path / "served.csv").open(newline="") as file:
        cells = next(row for row in csv.DictReader(file) if row["path"] == known["path"])
    assert (cells["label"], cells["neighbor_1_path"]) == ("hue1", "hue1/0.png")
    assert {f"neighbor_{rank}_{name}" for rank in range(1, 5) for name in ("label", "distance", "path")} < cells.keys()


def test_an_index_of_faiss_answers_like_the_exact_search(command: Command, searched: Served, tmp_path: Path) -> None:
    """Also with encoded files, and after images were added."""
    folder = write_classes(tmp_path / "pictures", (1, 11), (0, 9))
    found = []
    for model in (MODEL, "hues_near"):
        output = tmp_path / f"{model}.jsonl"
        answer = command("client", "infer", folder, "--url", searched.url, "--model", model, "--output", output)
        assert answer.exit_code == 0, answer.output
        found.append([json.loads(line) for line in output.read_text().splitlines()])
    exact, near = found
    assert [row["label"] for row in near] == [row["label"] for row in exact]
    for one, other in zip(near, exact, strict=True):
        assert [item["path"] for item in one["neighbors"]] == [item["path"] for item in other["neighbors"]]
        assert one["distance"] == pytest.approx(other["distance"], abs=1e-5)
    files = np.array([[path.read_bytes()] for path in sorted(folder.rglob("*.png"))], object)
    with searched.server.client(timeout_s=60) as control:
        outputs = control.infer_tensors("hues_near_encoded", "", {"encoded": ("BYTES", files)})
    assert [text.decode() for text in outputs["path"][:, 0]] == [row["neighbors"][0]["path"] for row in near]
    added = write_classes(tmp_path / "added", (7,), range(5))
    publish_approximate(searched.embedder, added, searched.repository, add=True)
    with searched.server.client(timeout_s=60) as control:
        control.load("hues_near")
    with Client("hues_near", url=searched.url) as client:
        result = client.infer(pixels(7, 3))
    assert isinstance(result, SearchResult)
    assert (result.label, result.neighbors[0].path) == ("hue7", "hue7/3.png")


def test_check_passes_and_measures_when_images_are_labelled(command: Command, searched: Served, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pictures", (1, 2, 11), (0, 9))
    options = ("--url", searched.url, "--repository", searched.repository, "--data", folder, "--json")
    answer = command("client", "check", MODEL, *options)
    assert answer.exit_code == 0, answer.output
    ((_, metrics),) = json.loads(answer.stdout)[0]["quality"].items()
    assert {"recall@1", "recall@3", "false_accept", "false_reject"} == metrics.keys()


def test_options_are_refused_when_a_search_has_no_use_for_them(command: Command, searched: Served) -> None:
    arguments = ("client", "infer", searched.gallery / "hue0", "--from", searched.artifact, "--json")
    for options, code in (
        (("--tta", "flip"), "option.tta_text"),
        (("--threshold", "0.5"), "spec.no_threshold"),
        (("--min-probability", "0.5"), "filter.search_probability"),
        (("--class", "hue99"), "filter.label"),
    ):
        answer = command(*arguments, *options)
        assert (answer.exit_code, code in error_codes(answer)) == (2, True), answer.output
    kept = json.loads(command(*arguments, "--class", UNKNOWN).stdout)
    assert all(row["label"] == UNKNOWN for row in kept["rows"])


def test_no_request_fails_when_images_are_added(searched: Served, tmp_path: Path) -> None:
    """A class is unknown until the version that has it is loaded; a client that was opened before keeps working."""
    new, other = pixels(7, 3), pixels(1, 2)
    answers: list[SearchResult] = []
    problems: list[Exception] = []
    done = threading.Event()
    started, found = ([threading.Event() for _ in range(2)] for _ in range(2))

    def search(thread: int) -> None:
        try:
            with Client(MODEL, url=searched.url) as client:
                while not done.wait(0.05):
                    for image in (new, other):
                        result = client.infer(image)
                        assert isinstance(result, SearchResult)
                        answers.append(result)
                        started[thread].set()
                        if result.label == "hue7":
                            found[thread].set()
        except Exception as error:  # noqa: BLE001 - reported by the test
            problems.append(error)
            started[thread].set()
            found[thread].set()

    threads = [threading.Thread(target=search, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(event.wait(120) for event in started)
        version = searched.add(write_classes(tmp_path / "added", (7,), range(5)))
        assert all(event.wait(120) for event in found)
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=120)
    assert problems == []
    assert version == 2
    nearest = [answer.neighbors[0].path for answer in answers]
    assert nearest[0] != "hue7/3.png"
    assert {"hue1/2.png", "hue7/3.png"} <= set(nearest)


@pytest.mark.parametrize("model", [MODEL, "hues_near"])
def test_live_searches_are_mirrored_to_a_candidate(
    command: Command, searched: Served, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The version without hue7 gives the same answers for a picture of hue1."""
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, searched.server.tokens.admin or "")
    done = threading.Event()

    def send() -> None:
        with Client(model, url=searched.url) as client:
            while not done.wait(0.01):
                client.infer(pixels(1, 2))

    caller = threading.Thread(target=send)
    caller.start()
    try:
        words = ("--candidate", "1", "--share", "1", "--minutes", "1", "--max-changed", "0.1", "--json")
        mirrored = command(
            "client", "shadow", model, *words, "--url", searched.url, "--repository", searched.repository
        )
    finally:
        done.set()
        caller.join(timeout=60)
    assert mirrored.exit_code == 0, mirrored.output
    result = json.loads(mirrored.stdout)
    assert (result["decision"], result["changed"], result["current"]) == ("promote", 0, "2")
