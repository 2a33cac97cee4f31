"""Compare libraries of approximate search, for galleries that are too large for an ONNX graph.

Runs in an environment of its own, with numpy alone:

    python3 -m venv /tmp/ann && /tmp/ann/bin/pip install faiss-cpu usearch numpy
    /tmp/ann/bin/python -m benchmarks.studies.searching.libraries --output FILE.json

Each index is built in a process of its own, saved, and opened again in another process, whose memory and time of single
queries are measured. The truth is an exact search in numpy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.searching.vectors import gallery_vectors, query_vectors

NEIGHBORS = 10
M, BUILD, EFFORTS = 16, 128, (64, 256, 1024)
"""Of HNSW: links of a node, candidates while building, and candidates of a search."""
LISTS, PROBES = 1788, (16, 32, 64, 128, 256)
"""Of IVF: clusters, and clusters that a search visits."""


def build_faiss_hnsw(vectors: Any, path: str) -> None:
    faiss: Any = import_module("faiss")

    index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD
    index.add(vectors)
    faiss.write_index(index, path)


def build_faiss_ivf(vectors: Any, path: str) -> None:
    faiss: Any = import_module("faiss")

    size = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, LISTS, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10
    index.train(vectors[:: max(1, len(vectors) // (50 * LISTS))])
    index.add(vectors)
    faiss.write_index(index, path)


def build_usearch(vectors: Any, path: str) -> None:
    Index: Any = import_module("usearch.index").Index  # noqa: N806 - its class

    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32", connectivity=M, expansion_add=BUILD)
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count() or 1)
    index.save(path)


def open_faiss(path: str) -> Callable[[int], Callable[[Any], Any]]:
    faiss: Any = import_module("faiss")

    index = faiss.read_index(path)

    def at(effort: int) -> Callable[[Any], Any]:
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = effort
        else:
            index.nprobe = effort
        return lambda queries: index.search(queries, NEIGHBORS)[1]

    return at


def open_usearch(path: str) -> Callable[[int], Callable[[Any], Any]]:
    Index: Any = import_module("usearch.index").Index  # noqa: N806 - its class

    index = Index.restore(path)

    def at(effort: int) -> Callable[[Any], Any]:
        index.expansion_search = effort
        return lambda queries: np.atleast_2d(index.search(queries, NEIGHBORS).keys)

    return at


METHODS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "faiss hnsw f32": (build_faiss_hnsw, open_faiss, EFFORTS),
    "faiss ivf f32": (build_faiss_ivf, open_faiss, PROBES),
    "usearch hnsw f32": (build_usearch, open_usearch, EFFORTS),
}


def build_index(method: str, count: int, size: int, path: str) -> dict[str, float]:
    """Build and save an index."""
    vectors = gallery_vectors(count, size)
    started, cpu = time.perf_counter(), time.process_time()
    METHODS[method][0](vectors, path)
    return {
        "build_s": round(time.perf_counter() - started, 1),
        "build_cpu_s": round(time.process_time() - cpu, 1),
        "file_mb": round(Path(path).stat().st_size / 1e6, 1),
    }


def search_index(method: str, path: str, queries: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """Open an index and search one query after another, at each effort."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at = METHODS[method][1](path)
    levels = []
    for effort in METHODS[method][2]:
        search = at(effort)
        level: dict[str, Any] = {"effort": effort}
        for kind, vectors in queries.items():
            search(vectors[:1])
            found, latencies, cpu = [], [], time.process_time()
            for row in range(len(vectors)):
                started = time.perf_counter()
                found.append(search(vectors[row : row + 1])[0])
                latencies.append((time.perf_counter() - started) * 1e3)
            hits = [len({*map(int, row)} & {*right}) for row, right in zip(found, truth[kind].tolist(), strict=True)]
            level[kind] = {
                "recall_at_10": round(float(np.mean(hits)) / NEIGHBORS, 4),
                "p50_ms": round(float(np.median(latencies)), 3),
                "cpu_ms": round((time.process_time() - cpu) / len(vectors) * 1e3, 3),
            }
        levels.append(level)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"memory_mb": round(memory / 1e3, 1), "levels": levels}


def nearest_vectors(count: int, size: int, queries: dict[str, Any]) -> dict[str, Any]:
    """Return the indices of the nearest vectors, [500, 10], by kind of query."""
    vectors = gallery_vectors(count, size)
    return {
        kind: np.concatenate([np.argsort(-(part @ vectors.T), axis=1)[:, :NEIGHBORS] for part in np.split(asked, 20)])
        for kind, asked in queries.items()
    }


def main() -> None:
    """Measure all methods, each in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    queries = query_vectors(options.vectors, options.size)
    record: dict[str, Any] = {"vectors": options.vectors, "size": options.size, "methods": {}}
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, processes.Pool(1, maxtasksperchild=1) as pool:
        truth = pool.apply(nearest_vectors, (options.vectors, options.size, queries))
        for method in METHODS:
            path = str(Path(folder) / method.replace(" ", "."))
            figures = pool.apply(build_index, (method, options.vectors, options.size, path))
            figures |= pool.apply(search_index, (method, path, queries, truth))
            record["methods"][method] = figures
            print(method, json.dumps(figures), flush=True)
            Path(path).unlink()
    load = [round(value, 2) for value in os.getloadavg()]
    packages = {name: version(name) for name in ("faiss-cpu", "usearch", "numpy")}
    record["machine"] = {"cores": os.cpu_count(), "load_average": load, **packages}
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
