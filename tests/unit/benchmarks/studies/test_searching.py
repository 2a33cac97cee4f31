"""The studies of search models, without a server: the graph of the search step, latencies, divisions of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.studies.searching.search_step import (
    INPUT,
    NEIGHBORS,
    closed_loop,
    open_in_process,
    percentiles,
    write_config,
    write_model,
)
from benchmarks.studies.searching.unknown_classes import divisions, shares_in_halves
from benchmarks.studies.searching.vectors import gallery_vectors, query_vectors
from builder.sources.search.gallery import Gallery
from tritonkit.runtimes.formats import FAISS, ONNX
from tritonkit.runtimes.indexed_items import IndexedItems
from tritonkit.triton.model_config import read_config


def test_search_step_finds_what_numpy_finds(tmp_path: Path) -> None:
    vectors, queries = gallery_vectors(500, 32), query_vectors(500, 32)["same classes"]
    names = np.array([f"{number}.jpg" for number in range(500)])
    gallery = Gallery(vectors, np.array(["cat", "dog"])[np.arange(500) % 2], names)
    graph = write_model(tmp_path, gallery, ONNX)
    answer, label, path, distance = onnxruntime.InferenceSession(graph).run(None, {INPUT: queries})
    distances, indices = gallery.search(queries, NEIGHBORS)
    np.testing.assert_allclose(distance, distances, atol=1e-6)
    assert path.tolist() == names[indices].tolist()
    assert label.tolist() == gallery.labels[indices].tolist()
    assert answer[:, 0].tolist() == np.where(distances[:, 0] < 0.5, label[:, 0], "unknown").tolist()
    index = write_model(tmp_path / "index", gallery, FAISS)
    found = open_in_process(index)(queries)[1]
    assert np.mean(found == indices) > 0.99
    assert IndexedItems.read(index).paths_at(found).tolist() == names[found].tolist()
    write_config(tmp_path / "search_step", ONNX, size=32, max_batch=8, threads=1, delay_us=3000)
    config = read_config(tmp_path / "search_step")
    assert [(output.name, list(output.dims)) for output in config.output] == [
        ("answer", [1]),
        ("label", [NEIGHBORS]),
        ("path", [NEIGHBORS]),
        ("distance", [NEIGHBORS]),
    ]


def test_warm_up_does_not_count() -> None:
    asked: list[int] = []
    latencies = closed_loop(lambda batch: asked.append(len(batch)), np.zeros((7, 4), np.float32), clients=2, requests=5)
    assert (len(latencies), set(asked), len(asked)) == (10, {1}, 50)
    assert percentiles([1.0, 2.0, 3.0]) == {"p50_ms": 2.0, "p99_ms": pytest.approx(2.98), "max_ms": 3.0}


def test_rate_is_kept_in_the_mean_when_classes_are_alike() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([str(number % 40) for number in range(2000)])
    tested = shares_in_halves(rng.random(2000).astype(np.float32), labels, labels, rate=0.1, number=40)
    assert abs(tested["mean_percent"] - 10) < 1
    assert all(len(set(labels[half]) & set(labels[~half])) == 0 for half in divisions(labels, 3))
