"""Measure the search step of `builder index` alone: vectors in, nearest items out, through Triton.

The graph is that of a search model without its embedder: a matrix product with all vectors, and TopK. With
`--approximate` a FAISS index takes its place. Triton from the pip wheel serves it; clients in a closed loop send one
vector at a time by gRPC. They share the cores with Triton, so one thread searches, and a request waits some
milliseconds for a full batch: four vectors take little longer than one. Beside it the same search in numpy, and in this
process, which is the limit. The queries are like items, like new classes, and like nothing in the gallery.

Exits with 1 if recall@10 against the exact search is below 0.99, or p99 is not below 25 ms; with `--approximate`, for
galleries of any size, if p99 is not below that of numpy.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from benchmarks.environment import usable_cores
from benchmarks.studies.local_triton import serve
from benchmarks.studies.searching.vectors import gallery_vectors, query_vectors
from benchmarks.studies.study import Result, command
from builder.onnx.export import OPSET
from builder.onnx.file import save_onnx
from builder.sources.search.approximate import build_index, choose_probes
from builder.sources.search.gallery import Gallery
from builder.sources.search.graph import search_nodes
from tritonkit.runtimes.formats import FAISS, ONNX, ArtifactFormat, model_files
from tritonkit.runtimes.indexed_items import IndexedItems
from tritonkit.spec import METADATA_KEY
from tritonkit.triton.client import TritonClient
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text

MODEL, INPUT = "search_step", "embedding"
NEIGHBORS, THRESHOLD = 10, 0.5
FLOAT = TensorProto.FLOAT
OUTPUTS = {
    "answer": (TensorProto.STRING, 1),
    "label": (TensorProto.STRING, NEIGHBORS),
    "path": (TensorProto.STRING, NEIGHBORS),
    "distance": (FLOAT, NEIGHBORS),
}
"""Element type and length of the outputs, by name."""
RECALL, P99_MS = 0.99, 25.0
WARM_UP = 20
"""Requests of each client that do not count."""


def write_model(repository: Path, gallery: Gallery, record: ArtifactFormat) -> Path:
    """Write the search step in a format into a model repository; return the artifact."""
    path = repository / MODEL / "1" / record.file
    path.parent.mkdir(parents=True)
    size = gallery.vectors.shape[1]
    if record is ONNX:
        nodes, tensors = search_nodes(INPUT, gallery, NEIGHBORS, THRESHOLD)
        save_onnx(make_model(nodes, tensors, size, OUTPUTS), path, MODEL)
        return path
    embedder = make_model([helper.make_node("Identity", [INPUT], ["vector"])], [], size, {"vector": (FLOAT, size)})
    settings = {"gallery": {"neighbors": NEIGHBORS, "threshold": THRESHOLD}}
    helper.set_model_props(embedder, {METADATA_KEY: json.dumps(settings)})
    index = build_index(gallery)
    choose_probes(index, gallery, NEIGHBORS, None)
    faiss.write_index(index, str(path))
    items = IndexedItems(embedder.SerializeToString(), *gallery.numbered_labels, np.char.encode(gallery.paths, "utf-8"))
    items.write(path)
    return path


def make_model(nodes: list[Any], tensors: list[Any], size: int, outputs: Mapping[str, tuple[int, int]]) -> Any:
    """Return an ONNX model of vectors [N, size]. outputs: element type and length by name."""
    inputs = [helper.make_tensor_value_info(INPUT, FLOAT, ["batch", size])]
    described = [helper.make_tensor_value_info(name, kind, ["batch", n]) for name, (kind, n) in outputs.items()]
    graph = helper.make_graph(nodes, MODEL, inputs, described, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def write_config(model: Path, record: ArtifactFormat, size: int, max_batch: int, threads: int, delay_us: int) -> None:
    """Write the `config.pbtxt` of the search step."""
    config = model_config_pb2.ModelConfig(name=MODEL, backend=record.backend, max_batch_size=max_batch)
    config.default_model_filename = record.file
    config.input.add(name=INPUT, data_type=model_config_pb2.TYPE_FP32, dims=[size])
    for name, (kind, length) in OUTPUTS.items():
        data_type = model_config_pb2.TYPE_STRING if kind == TensorProto.STRING else model_config_pb2.TYPE_FP32
        config.output.add(name=name, data_type=data_type, dims=[length])
    config.dynamic_batching.max_queue_delay_microseconds = delay_us
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    config.instance_group.add(count=1)
    (model / CONFIG_FILE).write_text(config_to_text(config), encoding="utf-8")


def open_in_process(artifact: Path) -> Callable[[NDArray[np.float32]], Any]:
    """Open the search step in this process, on all cores."""
    if artifact.name == FAISS.file:
        index: Any = faiss.read_index(str(artifact))
        return lambda batch: index.search(batch, NEIGHBORS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {INPUT: batch})


def closed_loop(
    search: Callable[[NDArray[np.float32]], Any], queries: NDArray[np.float32], clients: int, requests: int
) -> list[float]:
    """Send one query at a time from each client; return the latencies in ms, without those of the warm-up."""

    def send(client: int) -> list[float]:
        latencies = []
        for number in range(WARM_UP + requests):
            row = (client * requests + number) % len(queries)
            started = time.perf_counter()
            search(queries[row : row + 1])
            latencies.append((time.perf_counter() - started) * 1e3)
        return latencies[WARM_UP:]

    with ThreadPoolExecutor(clients) as pool:
        return [latency for latencies in pool.map(send, range(clients)) for latency in latencies]


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return p50, p99 and the largest latency in ms."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "max_ms": round(max(latencies), 2)}


def measure(
    vectors: Annotated[int, typer.Option(min=100, help="Items of the gallery.")] = 100_000,
    size: Annotated[int, typer.Option(min=8, help="Numbers in a vector.")] = 512,
    concurrency: Annotated[int, typer.Option(min=1, help="Clients, each with one request in flight.")] = 4,
    requests: Annotated[int, typer.Option(min=100, help="Requests of each client.")] = 500,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of Triton.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the search in Triton.")] = 1,
    queue_delay_us: Annotated[int, typer.Option(min=0, help="How long a request waits for a full batch.")] = 6000,
    approximate: Annotated[bool, typer.Option(help="Search with a FAISS index.")] = False,
) -> Result:
    """Measure latency and recall of the search step."""
    labels = np.array([f"class {number}" for number in range(1000)])[np.arange(vectors) % 1000]
    paths = np.array([f"pictures/{number:07}.jpg" for number in range(vectors)])
    gallery = Gallery(gallery_vectors(vectors, size), labels, paths)
    queries = np.concatenate([*query_vectors(vectors, size).values()])
    distances, exact = gallery.search(queries, NEIGHBORS)
    with tempfile.TemporaryDirectory() as folder:
        record = FAISS if approximate else ONNX
        artifact = write_model(Path(folder) / "repository", gallery, record)
        write_config(artifact.parents[1], record, size, max_batch, threads, queue_delay_us)
        megabytes = round(sum(path.stat().st_size for path in model_files(artifact)) / 1e6, 1)
        with serve(Path(folder) / "repository") as triton, TritonClient(triton.options.grpc_url) as client:

            def search(batch: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
                return client.infer_tensors(MODEL, "", {INPUT: ("FP32", batch)})

            latencies = closed_loop(search, queries, concurrency, requests)
            answers = [search(queries[row : row + 1]) for row in range(len(queries))]
            alone = closed_loop(search, queries, 1, requests)
        in_process = closed_loop(open_in_process(artifact), queries, concurrency, requests)
        in_numpy = closed_loop(lambda batch: gallery.search(batch, NEIGHBORS), queries, concurrency, requests)
    found = np.array([[path.decode() for path in answer["path"][0]] for answer in answers])
    hits = [len({*row} & {*paths[index].tolist()}) for row, index in zip(found.tolist(), exact, strict=True)]
    recall = float(np.mean(hits)) / NEIGHBORS
    error = float(
        max(np.abs(answer["distance"][0] - row).max() for answer, row in zip(answers, distances, strict=True))
    )
    triton_times, numpy_times = percentiles(latencies), percentiles(in_numpy)
    limit_ms = numpy_times["p99_ms"] if approximate else P99_MS
    return Result(
        {
            "format": record.name,
            "vectors": vectors,
            "size": size,
            "megabytes": megabytes,
            "concurrency": concurrency,
            "threads": threads,
            "queue_delay_us": queue_delay_us,
            "requests": len(latencies),
            "recall_at_10": recall,
            "largest_distance_error": error,
            "triton": {**triton_times, "requests_per_s": round(1e3 * concurrency / float(np.mean(latencies)), 1)},
            "triton_alone": percentiles(alone),
            "in_process": percentiles(in_process),
            "numpy": numpy_times,
        },
        {
            f"recall@10 {recall:.4f} of the exact search is at least {RECALL}": recall >= RECALL,
            f"p99 {triton_times['p99_ms']} ms at concurrency {concurrency} is below {limit_ms:g} ms": (
                triton_times["p99_ms"] < limit_ms
            ),
        },
        packages=("onnxruntime", "faiss-cpu", "numpy"),
    )


if __name__ == "__main__":
    command(measure)()
