"""A Triton on this machine for studies and drills, and what it serves: networks with random weights, and pictures."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from builder.pipeline import PublishedVersion, export
from builder.request import ExportRequest
from builder.sources.base import NetworkSource
from server.options import Options
from server.process import start, stop, wait_until_ready
from server.runtimes.base import Server
from server.runtimes.table import runtime_of
from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageArray, Preprocess
from tritonkit.networks.backbones import architecture_of
from tritonkit.networks.network import Network, save_network
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import ModelSpec, Normalize, Outputs, TensorSpec, image_input
from tritonkit.system.commands import free_ports
from tritonkit.system.local_servers import STATE_VARIABLE

PHOTOS = Path(__file__).parents[2] / ".cache" / "data" / "photos"


class LocalTriton:
    """A server on free ports that can be killed and started again."""

    server: Server

    def __init__(self, repository: Path, models: tuple[str, ...] = ()) -> None:
        http, grpc, metrics = free_ports()
        self.options = Options(
            repository=repository, models=models, http_port=http, grpc_port=grpc, metrics_port=metrics
        )
        self.restarts = 0
        """How often Triton crashed by itself and its supervisor restarted it, in the servers that ended."""

    def start(self) -> None:
        """Start the server and wait until it is ready. Raises ServerError."""
        self.server = start(self.options, stops_with_parent=True)
        wait_until_ready(self.server, timeout_s=120)

    def stop(self) -> None:
        """Stop the server."""
        self.restarts += runtime_of(self.server).restart_count(self.server)
        stop(self.server)

    def kill(self) -> None:
        """SIGKILL the server and all its children."""
        self.restarts += runtime_of(self.server).restart_count(self.server)
        family = self._family()
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=30)

    def load(self, model: str) -> None:
        """Load a model, or reload it if its files have changed. Raises TritonkitError with Triton's reason."""
        with self.server.client(timeout_s=60) as client:
            client.load(model)

    def unload(self, model: str) -> None:
        """Unload a model."""
        with self.server.client() as client:
            client.unload(model)

    def infer(self, model: str, images: ImageArray) -> tuple[int, Outputs]:
        """Send uint8 images [N, H, W, 3]; return the version that answered and its outputs."""
        with self.server.client() as client:
            outputs, version = client.infer(model, "", client.model(model).spec(), images)
        return int(version), outputs

    def cpu_s(self) -> float:
        """Return the CPU seconds of the server and its children so far."""
        return float(sum(sum(member.cpu_times()[:2]) for member in self._family()))

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self.server.pid)
        return [process, *process.children(recursive=True)]


@contextmanager
def serve(repository: Path, *models: str) -> Iterator[LocalTriton]:
    """Serve models of a repository, by default all, with a temporary state folder."""
    earlier_state = os.environ.get(STATE_VARIABLE)
    triton = LocalTriton(repository, models)
    with tempfile.TemporaryDirectory() as state:
        os.environ[STATE_VARIABLE] = state
        try:
            triton.start()
            try:
                yield triton
            finally:
                triton.stop()
        finally:
            os.environ.pop(STATE_VARIABLE)
            if earlier_state is not None:
                os.environ[STATE_VARIABLE] = earlier_state


def publish_network(network: Network, repository: Path, name: str, max_batch: int, **options: Any) -> PublishedVersion:
    """Export a network as the next version of a model. Its checkpoint lies beside the repository.

    options: of `ExportRequest`. Raises TritonkitError.
    """
    checkpoint = repository.with_name(f"{repository.name}.safetensors")
    save_network(checkpoint, network)
    return export(ExportRequest(source=checkpoint, name=name, repository=repository, max_batch=max_batch, **options))


class CachedGraphSource(NetworkSource):
    """A network whose graph is written once for all its exports, beside `path`."""

    def write_graph(self, path: Path) -> None:
        cached = self.path.with_suffix(ONNX.suffix)
        if not cached.is_file():
            super().write_graph(cached)
        shutil.copyfile(cached, path)


def tiny_network(name: str = "tiny", seed: int = 0, side: int = 32) -> Network:
    """Return a residual network of three classes at `side` x `side` pixels with random weights."""
    torch.manual_seed(seed)
    preprocess = Preprocess(height=side, width=side)
    spec = ModelSpec(
        name=name,
        task="multiclass",
        labels=("cat", "dog", "bird"),
        architecture=architecture_of("test_resnet", side, side),
        input=image_input(preprocess),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(3,)),),
        preprocess=preprocess,
        normalize=Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    )
    return Network(spec).eval()


def random_photos(folder: Path = PHOTOS) -> Iterator[tuple[Image.Image, random.Random]]:
    """Yield photographs of `make data` at random without end, with the generator for their crops. Raises InputError."""
    photographs = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
    if not photographs:
        raise InputError(f"{folder}: contains no photographs; `make data` fetches them", code="data.no_photos")
    rng = random.Random(0)  # noqa: S311 - no secret
    while True:
        yield rng.choice(photographs), rng
