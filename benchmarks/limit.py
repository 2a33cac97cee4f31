"""Measures the limit: the throughput of the same artifact called in process, without a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.load.level import batches_of
from benchmarks.records.record import Limit, LimitPoint, best_of
from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec
from tritonkit.triton.served_model import ServedModel

MIN_CALLS = 3


def server_threads(model: ServedModel) -> int:
    """Return the intra-op threads of all instances, from the model configuration; 0 for the default.

    Parameter: github.com/triton-inference-server/onnxruntime_backend, "intra_op_thread_count".
    """
    return int(model.parameters.get("intra_op_thread_count", 0)) * max(1, model.instances)


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and `max_batch`."""
    return (*(1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch), max_batch)


def open_reference(path: Path, threads: int, served_spec: ModelSpec) -> Runner:
    """Open the artifact to measure the limit with.

    served_spec: the spec of the served model. Raises ArtifactError for another model, and errors of opening the
    artifact.
    """
    runner = open_artifact(path, threads=threads)
    for field, actual, expected in (
        ("input", (runner.spec.input,), (served_spec.input,)),
        ("outputs", runner.spec.outputs, served_spec.outputs),
    ):
        if actual != expected:
            raise ArtifactError(
                f"{path}: its {field} {', '.join(map(str, actual))}, the served model's "
                f"{', '.join(map(str, expected))}; name the served file with --artifact",
                code="benchmark.other_model",
            )
    return runner


def measure_points(
    runner: Runner,
    images: ImageArray,
    sizes: Sequence[int],
    seconds: float,
    on_size: Callable[[int], None] = lambda size: None,
) -> tuple[LimitPoint, ...]:
    """Call `runner` in sequence for `seconds` at each batch size.

    images: uint8 [N, H, W, 3]. on_size: called with each size before it is measured. Raises errors of the runner.
    """
    points = []
    for size in sizes:
        on_size(size)
        batches = batches_of(images, size)
        for _ in range(2):  # the first calls allocate and choose kernels
            runner.infer(batches[0])
        calls, start, elapsed_s = 0, time.perf_counter(), 0.0
        while elapsed_s < seconds or calls < MIN_CALLS:
            runner.infer(batches[calls % len(batches)])
            calls += 1
            elapsed_s = time.perf_counter() - start
        points.append(LimitPoint(batch=size, images_per_s=calls * size / elapsed_s, mean_ms=elapsed_s / calls * 1e3))
    return tuple(points)


def limit_of(before: tuple[LimitPoint, ...], after: tuple[LimitPoint, ...], threads: int) -> Limit:
    """Return the batch size with the best mean of both measurements, before and after the load.

    after: empty while the load runs; then only `before` counts.
    """
    points = [
        LimitPoint(
            batch=first.batch,
            images_per_s=(first.images_per_s + last.images_per_s) / 2,
            mean_ms=(first.mean_ms + last.mean_ms) / 2,
        )
        for first, last in zip(before, after or before, strict=True)
    ]
    best = best_of(tuple(points))
    return Limit(images_per_s=best.images_per_s, batch=best.batch, threads=threads, before=before, after=after)
