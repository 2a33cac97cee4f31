"""Measure Triton against FastAPI, LitServe, BentoML and MLServer: a JPEG in, the most likely class out.

All serve the same ONNX file, the ImageNet model of the demo, with the same versions of ONNX Runtime, numpy and Pillow.
`scripts/peers.sh` makes their environments; `builder export` and `server up --runtime pip` serve it with Triton, at
their defaults. A client in a process of its own sends the same photograph from 1, 8 and 32 keep-alive connections over
HTTP. One server is measured at a time, and the others are paused; in each round the order is reversed. The medians of
the rounds are compared. In process, the same picture is decoded and classified one at a time, in turns with the rest.

Exits with 1 if Triton answers fewer requests a second than 0.95 of FastAPI at one connection or 1.05 of it at more, or
if its p50 at one connection is above 1.15 times that in process.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import Distribution
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.studies.local_triton import serve
from benchmarks.studies.serving.closed_loop import Endpoint, Slice, measure_slice, slice_of
from benchmarks.studies.serving.peer_results import IN_PROCESS, TRITON, checks, summarize, write_table
from benchmarks.studies.serving.peer_servers import PEERS, RunningServer, paused, python_of, serve_peer
from benchmarks.studies.study import Result, command, in_turns, machine
from builder.pipeline import export
from builder.request import ExportRequest
from tritonkit.errors import TritonkitError
from tritonkit.images.preprocess import load_image
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec

DATA = Path(__file__).parents[3] / ".cache" / "data"
PICTURE = DATA / "photos" / "cat.jpg"
ARCHITECTURE, MODEL = "tf_efficientnet_lite0", "imagenet"
CONNECTIONS = (1, 8, 32)
SETTLE_S = 0.5


def measure(
    rounds: int = 5,
    seconds: Annotated[float, typer.Option(help="Length of a slice.")] = 2.0,
    page: Annotated[
        Path | None, typer.Option(help="Replace the table of this page, such as docs/benchmarks.md.")
    ] = None,
) -> Result:
    """Start all servers, check that they agree, and measure them in turns."""
    for peer in PEERS:
        python_of(peer)  # before anything takes time
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        repository = Path(temporary) / "repository"
        artifact, spec = publish(repository)
        servers = stack.enter_context(all_servers(repository, artifact, spec))
        client = stack.enter_context(child_process())
        classes = {name: classify(server) for name, server in servers.items()}
        for server in servers.values():  # not counted: the first requests are slow
            client.submit(measure_slice, server.endpoint, max(CONNECTIONS), 0, 1).result()
        idle = idle_cores(servers)
        baseline = stack.enter_context(child_process())
        levels: dict[int, dict[str, list[Slice]]] = {}
        for connections in CONNECTIONS:
            print(f"connections: {connections}", flush=True)
            methods: dict[str, Callable[[], Slice]] = {
                name: partial(measure_alone, name, servers, client, connections, seconds) for name in servers
            }
            if connections == 1:
                methods[IN_PROCESS] = partial(measure_in_process, servers, baseline, artifact, seconds)
            levels[connections] = in_turns(methods, rounds)
    record = summarize(levels) | {
        "model": ARCHITECTURE,
        "picture": {"file": PICTURE.name, "bytes": PICTURE.stat().st_size},
        "rounds": rounds,
        "seconds": seconds,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "classes": classes,
        "idle_cores": idle,
        "slices": {
            str(connections): {name: [asdict(each) for each in slices] for name, slices in level.items()}
            for connections, level in levels.items()
        },
    }
    if page:
        write_table(page, record | {"machine": machine()})
    return Result(record, checks(record, levels), hidden=("slices",))


def publish(repository: Path) -> tuple[Path, ModelSpec]:
    """Export the ImageNet model as scripts/demo.sh does; return its ONNX file and spec."""
    weights = DATA / "lite0" / "efficientnet_lite0.pth"
    labels = DATA / "lite0" / "labels.txt"
    published = export(
        ExportRequest(source=weights, model=ARCHITECTURE, labels=labels, name=MODEL, repository=repository)
    )
    artifact = repository / MODEL / str(published.version) / ONNX.file
    return artifact, OnnxRuntimeRunner(artifact).spec


@contextmanager
def all_servers(repository: Path, artifact: Path, spec: ModelSpec) -> Iterator[dict[str, RunningServer]]:
    """Start Triton and the peers. Raises TritonkitError."""
    picture, preprocess = PICTURE.read_bytes(), spec.preprocess
    variables = {"ONNX_FILE": str(artifact), "SIDE": str(preprocess.height), "CROP": str(preprocess.crop_ratio)}
    with ExitStack() as stack:
        triton = stack.enter_context(serve(repository))
        address = triton.options.http_url.removeprefix("http://")
        servers = {TRITON: RunningServer(triton.server.pid, triton_endpoint(address, picture))}
        for peer in PEERS:
            servers[peer.name] = stack.enter_context(serve_peer(peer, variables, picture))
        yield servers


def triton_endpoint(address: str, picture: bytes) -> Endpoint:
    """Return a request of the KServe protocol for the most likely class as JSON, with the picture as it is."""
    size = {"binary_data_size": len(picture) + 4}
    header = {
        "inputs": [{"name": "encoded", "shape": [1, 1], "datatype": "BYTES", "parameters": size}],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 1, "binary_data": False}}],
    }
    text = json.dumps(header).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
    body = text + len(picture).to_bytes(4, "little") + picture
    return Endpoint(address, f"/v2/models/{MODEL}_encoded/infer", headers, body)


def classify(server: RunningServer) -> tuple[int, float]:
    """Ask once; return the class and its probability. Raises TritonkitError."""
    status, answer = server.endpoint.ask()
    if status != 200:
        text = answer.decode(errors="replace")
        raise TritonkitError(f"{server.endpoint.address} answered {status}: {text}", code="drill.requests_failed")
    fields = json.loads(answer)
    if "outputs" in fields:  # Triton's
        probability, number, *_ = fields["outputs"][0]["data"][0].split(":")
        return int(number), round(float(probability), 4)
    return fields["class"], round(fields["probability"], 4)


def idle_cores(servers: Mapping[str, RunningServer], seconds: float = 3.0) -> dict[str, float]:
    """Return the CPU seconds a second that each server takes while nothing is sent."""
    time.sleep(1)
    before, began = {name: server.cpu_s() for name, server in servers.items()}, time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    return {name: round((server.cpu_s() - before[name]) / elapsed, 3) for name, server in servers.items()}


@contextmanager
def child_process() -> Iterator[ProcessPoolExecutor]:
    """Return a process that runs what is submitted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        child.submit(time.time).result()  # it has started
        yield child


def measure_alone(
    name: str, servers: Mapping[str, RunningServer], client: ProcessPoolExecutor, connections: int, seconds: float
) -> Slice:
    """Measure a server while the others are paused. Raises TritonkitError."""
    measured = servers[name]
    with paused(server for server in servers.values() if server is not measured):
        before_s = measured.cpu_s()
        found = client.submit(measure_slice, measured.endpoint, connections, SETTLE_S, seconds).result()
        cpu_s = measured.cpu_s() - before_s
    return replace(found, server_cpu_ms=round(cpu_s * 1000 / max(1, found.answered), 2))


def measure_in_process(
    servers: Mapping[str, RunningServer], child: ProcessPoolExecutor, artifact: Path, seconds: float
) -> Slice:
    """Measure decoding and the model in one thread of a process of its own, while all servers are paused."""
    with paused(servers.values()):
        return child.submit(classify_in_process, artifact, seconds).result()


def classify_in_process(artifact: Path, seconds: float) -> Slice:
    """Decode and classify the picture again and again; count as `measure_slice` does."""
    runner, picture, times = open_once(artifact), PICTURE.read_bytes(), []
    start = time.perf_counter() + SETTLE_S
    end = start + seconds
    while (sent := time.perf_counter()) < end:
        image, _ = load_image(picture, runner.spec.preprocess)
        runner.infer(image[None])["probabilities"].argmax()
        times.append((sent, time.perf_counter()))
    return slice_of(times, start, end)


@cache
def open_once(artifact: Path) -> OnnxRuntimeRunner:
    """Open the artifact at the first call in a process."""
    return OnnxRuntimeRunner(artifact)


def versions() -> dict[str, str]:
    """Return the versions of the peers."""
    found = {}
    for peer in PEERS:
        site = next((python_of(peer).parents[1] / "lib").glob("python*/site-packages"))
        found[peer.name] = next(iter(Distribution.discover(name=peer.package, path=[str(site)]))).version
    return found


if __name__ == "__main__":
    command(measure)()
