"""Measures the limit: the throughput of the same artifact called in process, without a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.environment import usable_cores
from benchmarks.inputs import batches_of
from benchmarks.records.record import MAX_DRIFT, Level, Limit, LimitPoint, best_of
from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import format_of
from tritonkit.spec import ModelSpec
from tritonkit.triton.served_model import ServedModel

POINT_S = 1.0
"""Seconds of in-process calls for each point, before and after the load."""
SHORTEST_S = 4.0
"""Of all points together: the disturbances of a machine last for seconds."""
VISITS = 5
"""Each point is measured this many times, in turns with the others."""
MAX_SESSIONS = 16
"""More parallel sessions would need much memory."""
ACCURACY = 0.05
"""A served figure may lie above the limit by this share by chance."""


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


def measure_limit(
    path: Path,
    threads: int,
    served_spec: ModelSpec,
    images: ImageArray,
    sizes: Sequence[int],
    on_point: Callable[[str, float], None] = lambda text, fraction: None,
) -> tuple[LimitPoint, ...]:
    """Measure an artifact at each batch size: in one session, and on a CPU also in one session a core.

    A point is the median of its visits, so that a disturbance of a second or two does not count. threads: intra-op
    threads of the one session; 0 is the default of the library. images: uint8 [N, H, W, 3]. on_point: called with a
    text and the finished fraction. Raises the errors of `open_reference` and of the runner.
    """
    known = format_of(path)
    arrangements = [(1, threads)]
    if (known is None or "cpu" in known.runs_on) and 1 < usable_cores() <= MAX_SESSIONS:
        arrangements.append((usable_cores(), 1))
    # Opened for each measurement: the threads of an idle session must not run during the load.
    with ExitStack() as stack:
        groups = [
            [stack.enter_context(open_reference(path, session_threads, served_spec)) for _ in range(sessions)]
            for sessions, session_threads in arrangements
        ]
        points = [(runners, batches_of(images, size)) for runners in groups for size in sizes]
        visits: list[list[LimitPoint]] = [[] for _ in points]
        visit_s = max(POINT_S, SHORTEST_S / len(points)) / VISITS
        for visit in range(VISITS):
            for number, (runners, batches) in enumerate(points):
                text = f"limit in process, batch {len(batches[0])} x {len(runners)}"
                on_point(text, (visit + number / len(points)) / VISITS)
                visits[number].append(measure_visit(runners, batches, visit_s))
    return tuple(sorted(each, key=lambda visit: visit.images_per_s)[VISITS // 2] for each in visits)


def measure_visit(runners: Sequence[Runner], batches: Sequence[ImageArray], seconds: float) -> LimitPoint:
    """Call each runner in a thread of its own, at least once. Raises errors of the runners."""
    size = len(batches[0])

    def call(runner: Runner) -> tuple[int, float]:
        calls, started, elapsed_s = 0, time.perf_counter(), 0.0
        while elapsed_s < seconds:
            runner.infer(batches[calls % len(batches)])
            calls += 1
            elapsed_s = time.perf_counter() - started
        return calls, elapsed_s

    with ThreadPoolExecutor(len(runners)) as pool:
        # The first calls allocate and choose kernels.
        list(pool.map(lambda runner: runner.infer(batches[0]), runners))
        measured = list(pool.map(call, runners))
    return LimitPoint(
        batch=size,
        sessions=len(runners),
        images_per_s=sum(calls * size / elapsed_s for calls, elapsed_s in measured),
        mean_ms=sum(elapsed_s / calls for calls, elapsed_s in measured) / len(measured) * 1e3,
    )


def limit_of(before: tuple[LimitPoint, ...], after: tuple[LimitPoint, ...], threads: int) -> Limit:
    """Return the point with the best mean of both measurements, before and after the load.

    after: empty while the load runs; then only `before` counts. threads: of one session; parallel ones have one each.
    """
    points = [
        LimitPoint(
            batch=first.batch,
            sessions=first.sessions,
            images_per_s=(first.images_per_s + last.images_per_s) / 2,
            mean_ms=(first.mean_ms + last.mean_ms) / 2,
        )
        for first, last in zip(before, after or before, strict=True)
    ]
    best = best_of(tuple(points))
    return Limit(
        images_per_s=best.images_per_s,
        batch=best.batch,
        sessions=best.sessions,
        threads=threads if best.sessions == 1 else 1,
        before=before,
        after=after,
    )


def why_exceeded(limit: Limit, levels: Sequence[Level], server_threads: int, has_cache: bool) -> str | None:
    """Return why a served figure lies above the limit; None if none does.

    server_threads: intra-op threads of all instances; 0 is the default of the library. has_cache: whether the server
    keeps responses of the model.
    """
    best = max(levels, key=lambda level: level.images_per_s)
    above = best.images_per_s / limit.images_per_s - 1
    if above <= 0:
        return None
    halves = [best_of(points).images_per_s for points in (limit.before, limit.after or limit.before)]
    threads = limit.threads * limit.sessions or usable_cores()
    if has_cache:
        reason = "Triton's response cache answers images that it has seen before"
    elif best.images_per_s <= max(halves):
        reason = f"the machine changed its speed: in process {halves[0]:,.1f} before the load, {halves[1]:,.1f} after"
    elif best.gpu:
        reason = "the server computes on a GPU; in process, onnxruntime may have none"
    elif server_threads and server_threads != threads:
        reason = f"the server computes on {server_threads} threads, the limit on {threads}"
    elif above <= ACCURACY:
        reason = "as much as two measurements of this length differ"
    elif abs(limit.drift) > MAX_DRIFT:
        reason = f"the machine is not steady: in process {halves[0]:,.1f} before the load, {halves[1]:,.1f} after"
    else:
        reason = "unexplained; other work may have slowed the in-process calls, so measure again on an idle machine"
    return f"{best.images_per_s:,.1f} images/s at {best.load}, {above:.0%} more: {reason}"
