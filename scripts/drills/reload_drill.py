"""Publish new versions every few seconds under load; each request must succeed with an answer of a live version.

Three tiny networks with different weights are exported once. Their files are then published repeatedly, each time as
the next version and in the builder's way: prepared in a staging folder as hard links, then renamed. After each
publication the server loads the model, and all versions but the newest two are deleted. Threads send requests all the
time, without retries. An answer is correct if it comes from the network of its version, and if that version was live at
some moment of the request: its loading began before the answer came, and no newer version was loaded before the request
was sent. Exits with 1 otherwise.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from benchmarks.studies.local_triton import LocalTriton, publish_network, serve, tiny_network
from benchmarks.studies.study import Result, command
from builder.repository.publish import publication
from builder.repository.retention import keep_newest
from tritonkit.errors import TritonkitError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes import open_artifact
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection

MODEL = "changing"
NETWORKS = 3
SIDE = 128
BATCH = 8
"""Large enough for shared memory."""
TOLERANCE = 1e-4
"""Allowed difference of a probability; the networks differ by far more."""
KEEP = 2
MAX_FAILURES_LISTED = 20

Protocol = Literal["grpc", "http"]


@dataclass
class Ledger:
    """Load times of versions. Written by one thread, read by all."""

    begun: dict[int, float] = field(default_factory=dict)
    loaded: dict[int, float] = field(default_factory=dict)

    def was_live(self, version: int, sent: float, answered: float) -> bool:
        """Whether a version was live at some moment between two times."""
        replaced = any(loaded_at < sent for newer, loaded_at in list(self.loaded.items()) if newer > version)
        return self.begun.get(version, answered) < answered and not replaced


@dataclass(frozen=True)
class Networks:
    """The exported files of each network, and its answers to the same images."""

    folders: tuple[Path, ...]
    images: ImageArray
    answers: tuple[Outputs, ...]

    def match(self, version: int, outputs: Outputs) -> bool:
        """Whether the outputs come from the network of a version."""
        expected = self.answers[version % len(self.answers)]
        return all(np.allclose(outputs[name], expected[name], atol=TOLERANCE) for name in expected)


@dataclass
class Traffic:
    """Sends requests one after another in each thread, and counts answers and failures."""

    server: TritonClient
    spec: ModelSpec
    networks: Networks
    ledger: Ledger
    answered: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send_requests(self) -> None:
        """Send requests until `stop` is set."""
        while not self.stop.is_set():
            sent = time.monotonic()
            try:
                outputs, version = self.server.infer(MODEL, "", self.spec, self.networks.images)
            except TritonkitError as error:
                self.failures.append(f"failed: {error}")
                continue
            if not self.networks.match(int(version), outputs):
                self.failures.append(f"version {version}: the answers are not those of its network")
            elif not self.ledger.was_live(int(version), sent, time.monotonic()):
                self.failures.append(f"version {version}: answered although it was not live")
            with self._lock:
                self.answered[int(version)] += 1


def drill(folder: Path, seconds: float, every_s: float, threads: int, protocol: Protocol) -> Result:
    """Run the drill in an empty folder. Raises TritonkitError if the server or an export fails at the start."""
    networks = export_networks(folder)
    repository = folder / "repository"
    shutil.copytree(folder / "1", repository)
    with serve(repository) as triton:
        url = triton.options.grpc_url if protocol == "grpc" else triton.options.http_url
        with TritonClient(Connection(url=url, shared_memory=True)) as server, ThreadPoolExecutor(threads) as pool:
            traffic = Traffic(server, server.model(MODEL).spec(), networks, Ledger(begun={1: 0.0}, loaded={1: 0.0}))
            requests = [pool.submit(traffic.send_requests) for _ in range(threads)]
            try:
                published = publish_all(triton, repository, traffic, seconds, every_s)
            finally:
                traffic.stop.set()
            for request in requests:
                request.result()
    return summarize(seconds, published, traffic, repository)


def publish_all(triton: LocalTriton, repository: Path, traffic: Traffic, seconds: float, every_s: float) -> int:
    """Publish and load a version every `every_s` seconds; return their number."""
    started, published = time.monotonic(), 0
    while (due_s := published * every_s) < seconds:
        time.sleep(max(0.0, started + due_s - time.monotonic()))
        try:
            version = publish(repository, traffic.networks)
            traffic.ledger.begun[version] = time.monotonic()
            triton.load(MODEL)
            traffic.ledger.loaded[version] = time.monotonic()
            keep_newest(repository / MODEL, KEEP)
        except TritonkitError as error:
            traffic.failures.append(f"a version could not be published: {error}")
            return published
        published += 1
        counts = f"{traffic.answered.total()} answers, {len(traffic.failures)} failures"
        print(f"version {version}: {counts}", flush=True)
    time.sleep(max(0.0, started + seconds - time.monotonic()))
    return published


def publish(repository: Path, networks: Networks) -> int:
    """Add the next version, hard links to the files of its network. Returns its number."""
    with publication(repository, MODEL) as prepared:
        for path in networks.folders[prepared.version % len(networks.folders)].iterdir():
            os.link(path, prepared.version_folder / path.name)
        return prepared.version


def summarize(seconds: float, published: int, traffic: Traffic, repository: Path) -> Result:
    """Return the result of a drill. published: number of versions published in `seconds`."""
    failed = len(traffic.failures)  # requests, publications and wrong answers
    requests = traffic.answered.total() + sum(line.startswith("failed") for line in traffic.failures)
    record = {
        "seconds": seconds,
        "versions": published,
        "requests": requests,
        "answered_by": {str(version): count for version, count in sorted(traffic.answered.items())},
        "left": sorted(path.name for path in (repository / MODEL).iterdir() if path.name.isdecimal()),
        "failed": failed,
        "failures": traffic.failures[:MAX_FAILURES_LISTED],
    }
    sentence = f"{requests} requests, {published} versions in {seconds:g} s, {failed} failures"
    return Result(record, {sentence: not failed})


def export_networks(folder: Path) -> Networks:
    """Export the networks. Version N gets the files of network N modulo their number."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    folders, answers = [], []
    for number in range(NETWORKS):
        print(f"exporting network {number + 1} of {NETWORKS}", flush=True)
        network = tiny_network(MODEL, number, SIDE)
        published = publish_network(network, folder / str(number), MODEL, max_batch=BATCH, encoded=False)
        folders.append(published.artifact.parent)
        with open_artifact(published.artifact, threads=1) as runner:
            answers.append(runner.infer(images))
    networks = Networks(tuple(folders), images, tuple(answers))
    if any(networks.match(earlier, answers[number]) for number in range(NETWORKS) for earlier in range(number)):
        raise TritonkitError("two of the networks give the same answers", code="checkpoint.equal_networks")
    return networks


def reload_drill(
    seconds: float = 60.0,
    every: Annotated[float, typer.Option(help="Seconds from one version to the next.")] = 2.0,
    threads: int = 4,
    over: Protocol = "grpc",
) -> Result:
    """Run the drill with three tiny networks."""
    with tempfile.TemporaryDirectory(prefix="reload_drill.") as folder:
        return drill(Path(folder), seconds, every, threads, over)


if __name__ == "__main__":
    command(reload_drill)()
