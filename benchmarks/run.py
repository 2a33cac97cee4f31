"""One benchmark: measure the limit, every level of load and the limit again, and make the record."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import read_environment
from benchmarks.inputs import (
    SampleImages,
    TensorModel,
    accepts_image_files,
    generate_requests,
    image_file_requests,
    load_sample_images,
)
from benchmarks.limit import batch_sizes, limit_of, measure_points, open_reference, server_threads
from benchmarks.load.level import LevelMeasurement, SupportsInfer, Timing, batches_of, measure_level
from benchmarks.records.record import ClientTime, Level, Limit, LimitPoint, LoadSettings, MeasuredModel, Record
from benchmarks.server_time import read_counters, served_settings, server_time
from tritonkit.errors import InputError
from tritonkit.runtimes.formats import ONNX
from tritonkit.system.console import warn
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_of
from tritonkit.triton.client import Statistics, TritonClient
from tritonkit.triton.runner import TritonRunner
from tritonkit.triton.served_model import ServedModel

LIMIT_POINT_S = 2.0
"""Seconds of in-process calls for each batch size, before and after the load."""
STILL_RUNNING = "the benchmark is still running, or was killed"

OnProgress = Callable[[str, float], None]
"""Called with the current step and the number of finished phases: each level, and both measurements of the limit."""
OnRecord = Callable[[Record], None]
"""Called with the incomplete record after each level."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """The options of `bench run`."""

    model: str
    url: str
    concurrency: tuple[int, ...]
    batch: int = 1
    repository: Path = Path("model_repository")
    artifact: Path | None = None
    threads: int | None = None
    images: Path | None = None
    timing: Timing = field(default_factory=Timing)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sizes of inputs with dynamic sizes, without the batch axis."""

    @property
    def phases(self) -> int:
        """The number of phases: each level, and both measurements of the limit."""
        return len(self.concurrency) + 2


@dataclass(frozen=True)
class BenchmarkTarget:
    """The served model, and the requests to send."""

    server: TritonClient
    version: str
    backend: str
    max_batch: int
    threads: int
    """Intra-op threads of all instances; 0 is the default of the library."""
    input: str
    runner: SupportsInfer[Any]
    batches: Sequence[Any]
    images: int
    source: str
    steps: tuple[str, ...] = ()
    """The models that an ensemble calls."""
    generated: bool = False
    encoded: bool = False
    decode_us: float | None = None
    """Time to decode one image file in the client, in microseconds."""
    no_limit: str = "only a model that `builder` published can be called in process"
    pictures: SampleImages | None = None
    """The images of a model that `builder` published; None for other models."""

    @property
    def triton_runner(self) -> TritonRunner | None:
        """The runner of a model that `builder` published; None for other models."""
        return self.runner if isinstance(self.runner, TritonRunner) else None


@dataclass(frozen=True)
class LimitArtifact:
    """The artifact to measure the limit with, or why there is none."""

    path: Path | None
    threads: int
    missing: str | None = None


def run(plan: BenchmarkPlan, on_progress: OnProgress, on_record: OnRecord = lambda record: None) -> Record:
    """Measure a served model.

    Raises InputError for options that do not fit the model, InferenceError if every request fails, and errors of
    loading images and artifact. After an error, the last record passed to `on_record` has all finished levels.
    """
    target = inspect_target(plan)
    artifact = _find_limit_artifact(plan, target)
    environment, started = read_environment(target.server.release()), datetime.now(UTC)
    run_id = secrets.token_hex(8)
    _check_outputs(target)
    before = _measure_limit(target, artifact, on_progress)

    subject = MeasuredModel(
        model=plan.model,
        version=target.version,
        url=target.server.url,
        protocol=target.server.protocol,
        backend=target.backend,
        max_batch=target.max_batch,
        input=target.input,
        settings=served_settings(target.server.config(plan.model)),
        artifact=str(artifact.path) if artifact.path else None,
        artifact_sha256=file_sha256(artifact.path) if artifact.path else None,
    )
    load = LoadSettings(
        concurrency=plan.concurrency,
        batch=plan.batch,
        images=target.images,
        images_source=target.source,
        generated=target.generated,
        encoded=target.encoded,
        transport=target.server.protocol,
        **asdict(plan.timing),
    )
    measured: list[LevelMeasurement] = []

    def record(after: tuple[LimitPoint, ...], incomplete: str | None) -> Record:
        limit = limit_of(before, after, artifact.threads) if artifact.path else None
        return Record(
            run_id=run_id,
            started_utc=started.replace(microsecond=0),
            subject=subject,
            load=load,
            levels=tuple(_level(measurement, target, plan, limit) for measurement in measured),
            limit=limit,
            limit_missing=artifact.missing,
            incomplete=incomplete,
            environment=environment,
        )

    def counters() -> dict[str, Statistics]:
        return read_counters(target.server, (plan.model, *target.steps))

    for phase, concurrency in enumerate(plan.concurrency, start=1):

        def on_window(windows: int, phase: int = phase, concurrency: int = concurrency) -> None:
            on_progress(f"concurrency {concurrency}, {windows} windows", phase + windows / plan.timing.max_windows)

        on_window(0)
        level = measure_level(target.runner, target.batches, concurrency, plan.timing, counters, on_window)
        measured.append(level)
        on_record(record((), STILL_RUNNING))
    after = _measure_limit(target, artifact, lambda text, fraction: on_progress(text, plan.phases - 1 + fraction))
    return record(after, None)


def _level(measured: LevelMeasurement, target: BenchmarkTarget, plan: BenchmarkPlan, limit: Limit | None) -> Level:
    images_per_s = measured.requests_per_s * plan.batch
    server = server_time(plan.model, measured.counted)
    in_server_us = server.request_us if server else None
    network_us = None if in_server_us is None else measured.latency.mean_ms * 1e3 - in_server_us
    return Level(
        concurrency=measured.concurrency,
        images_per_s=images_per_s,
        share_of_limit=images_per_s / limit.images_per_s if limit else None,
        requests=measured.requests,
        errors=measured.errors,
        first_error=measured.first_error,
        stable=measured.stable,
        windows=measured.windows,
        samples=measured.samples,
        histogram=measured.histogram,
        server=server,
        client=ClientTime(cores=measured.client_cores, decode_us=target.decode_us, network_us=network_us),
        **dict(measured.latency),
    )


def _check_outputs(target: BenchmarkTarget) -> None:
    """Check before the measurement that the server responds with valid values.

    For a model that `builder` did not publish, NaN is only a warning, because generated input may cause it. Raises
    AnswerError for impossible values, InferenceError.
    """
    if target.triton_runner is None:
        outputs = target.runner.infer(target.batches[0])
        for name, array in outputs.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                warn(f"warning: output {name} has NaN or infinite values; the model may be broken")
        return
    task = task_of(target.triton_runner.spec)
    for batch in target.batches:
        task.check_values(target.triton_runner.infer(batch))


def inspect_target(plan: BenchmarkPlan, client: TritonClient | None = None) -> BenchmarkTarget:
    """Prepare the requests for a served model. client: sends them; by default a new one.

    Raises InputError for options that do not fit the model, and errors of loading images.
    """
    client = client or TritonClient(plan.url)
    served = client.model(plan.model)
    version = client.version(plan.model)
    max_batch = max(1, served.max_batch)
    if plan.batch > max_batch:
        raise InputError(
            f"--batch {plan.batch}: {served.origin} takes at most {max_batch} images per request",
            code="benchmark.batch_too_large",
        )
    common = {
        "version": version,
        "backend": served.backend,
        "max_batch": max_batch,
        "threads": server_threads(served),
        "steps": served.steps,
    }
    if served.has_spec:
        return _pixel_target(plan, TritonRunner(client, plan.model, version), common)
    return _tensor_target(plan, TensorModel(client, served, version), served, client, common)


def _pixel_target(plan: BenchmarkPlan, runner: TritonRunner, common: Mapping[str, Any]) -> BenchmarkTarget:
    """Prepare requests of pixels for a model that `builder` published."""
    if plan.shapes:
        raise InputError(
            f"--shape: {runner.origin} takes {runner.spec.input}, whose sizes are fixed", code="benchmark.fixed_sizes"
        )
    pictures = load_sample_images(runner.spec.preprocess, plan.images, plan.repository / plan.model / runner.version)
    return BenchmarkTarget(
        server=runner.server,
        input=str(runner.spec.input),
        runner=runner,
        batches=batches_of(pictures.images, plan.batch),
        images=len(pictures.images),
        source=pictures.source,
        decode_us=pictures.decode_us,
        pictures=pictures,
        **common,
    )


def _tensor_target(
    plan: BenchmarkPlan, model: TensorModel, served: ServedModel, client: TritonClient, common: Mapping[str, Any]
) -> BenchmarkTarget:
    """Prepare requests for any other model: image files if it accepts them, else generated values."""
    owner = served.encoded_of
    if accepts_image_files(model) and (owner or plan.images is not None):
        owner_version = client.version(owner) if owner else ""
        requests = image_file_requests(model, plan.batch, plan.images, plan.repository / owner / owner_version)
    elif plan.images is not None:
        raise InputError(
            f"--images: {served.origin} takes no image files; without --images, generated values are sent",
            code="benchmark.takes_no_images",
        )
    else:
        requests = generate_requests(model, plan.batch, served.max_batch > 0, plan.shapes, served.origin)
    if owner:
        common = {**common, "no_limit": f"the server decodes the images; measure {owner} for a limit"}
    return BenchmarkTarget(
        server=client, input=", ".join(map(str, model.inputs)), runner=model, **requests._asdict(), **common
    )


def _find_limit_artifact(plan: BenchmarkPlan, target: BenchmarkTarget) -> LimitArtifact:
    if target.triton_runner is None:
        if plan.artifact is not None:
            raise InputError(
                f"--artifact: {plan.model} was not published by `builder`, so no file can be called in process",
                code="benchmark.no_spec",
            )
        return LimitArtifact(None, 0, target.no_limit)
    threads = target.threads if plan.threads is None else plan.threads
    if plan.artifact is not None:
        return LimitArtifact(plan.artifact, threads)
    address = target.server.connection.address
    if not address.is_loopback:
        return LimitArtifact(
            None, threads, f"{address.host} is another machine: run `bench` there, or name the file with --artifact"
        )
    path = plan.repository / plan.model / target.version / ONNX.file
    if not path.is_file():
        return LimitArtifact(None, threads, f"there is no {path}: use --repository or --artifact")
    return LimitArtifact(path, threads)


def _measure_limit(target: BenchmarkTarget, artifact: LimitArtifact, on_progress: OnProgress) -> tuple[LimitPoint, ...]:
    if artifact.path is None or target.triton_runner is None or target.pictures is None:
        return ()
    sizes = batch_sizes(target.max_batch)
    # Opened for each measurement: the threads of an idle session must not run during the load.
    with open_reference(artifact.path, artifact.threads, target.triton_runner.spec) as in_process:
        return measure_points(
            in_process,
            target.pictures.images,
            sizes,
            LIMIT_POINT_S,
            on_size=lambda size: on_progress(f"limit in process, batch {size}", sizes.index(size) / len(sizes)),
        )
