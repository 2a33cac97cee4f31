"""A model small enough to be written by hand: the mean colour of a picture, as three probabilities."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from benchmarks.records.record import (
    ClientTime,
    Environment,
    Level,
    Limit,
    LimitPoint,
    LoadSettings,
    MeasuredModel,
    Record,
    ServerTime,
)
from tests.tiny_graphs import SIDE, colour_spec, save_colour_graph
from tritonkit.spec import ModelSpec


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return colour_spec("colours")


@pytest.fixture(scope="session")
def onnx_file(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    softmax = helper.make_node("Softmax", ["means"], ["probabilities"], axis=1)
    return save_colour_graph(tmp_path_factory.mktemp("colours") / "model.onnx", spec, softmax)


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def level(concurrency: int, images_per_s: float, **changes: object) -> Level:
    latency_ms = concurrency / images_per_s * 1e3
    values: dict[str, object] = {
        "concurrency": concurrency,
        "images_per_s": images_per_s,
        "share_of_limit": images_per_s / 400,
        "mean_ms": latency_ms,
        "p50_ms": latency_ms,
        "p90_ms": latency_ms * 1.5,
        "p95_ms": latency_ms * 2,
        "p99_ms": latency_ms * 3,
        "requests": int(images_per_s * 15),
        "errors": 0,
        "stable": True,
        "windows": 3,
        "server": ServerTime(queue_us=120.0 * concurrency, mean_batch=concurrency / 2 + 0.5, batches={1: 7}),
        "client": ClientTime(cores=0.2),
    }
    return Level.model_validate({**values, **changes})


@pytest.fixture
def record() -> Record:
    before = (
        LimitPoint(batch=1, images_per_s=300, mean_ms=3.33),
        LimitPoint(batch=2, images_per_s=400, mean_ms=5),
    )
    after = tuple(point.model_copy(update={"images_per_s": point.images_per_s * 0.8}) for point in before)
    return Record(
        run_id="run-1",
        started_utc=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        subject=MeasuredModel(
            model="colours",
            version="3",
            url="127.0.0.1:8001",
            protocol="grpc",
            backend="onnxruntime",
            max_batch=2,
            input="image UINT8 [N, 8, 8, 3]",
            artifact="model_repository/colours/3/model.onnx",
            artifact_sha256="ab" * 32,
        ),
        load=LoadSettings(
            concurrency=(1, 4, 8),
            batch=1,
            images=5,
            images_source="validation images",
            transport="grpc",
            window_s=5,
            max_windows=10,
            warm_up_s=1,
        ),
        levels=(level(1, 150), level(4, 321.4), level(8, 388, stable=False, errors=2, first_error="it <broke>")),
        limit=Limit(images_per_s=400, batch=2, threads=2, before=before, after=after),
        environment=Environment(
            cpu="Test CPU",
            cores=2,
            memory_gib=8,
            platform="Linux",
            python="3.11",
            packages={"numpy": "2.0"},
            triton="2.51.0",
            load_average=0.1,
        ),
    )
