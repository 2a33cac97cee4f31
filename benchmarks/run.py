"""One measurement from start to end: the limit, every level of load, the limit again, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import environment_now
from benchmarks.images import Pictures, pictures_for
from benchmarks.limit import batch_sizes, limit_of, measure_points, open_reference, server_threads
from benchmarks.load import Measured, Timing, batches_of, measure_level
from benchmarks.record import Level, Limit, LimitPoint, Load, Record, Subject
from model.errors import InputError
from model.files import sha256_of
from model.runners.triton import TritonRunner, TritonServer
from model.tasks import task_of

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
LIMIT_POINT_S = 2.0
"""How long each batch size is called in process, before the load and again after it."""

Watch = Callable[[str, float], None]
"""Told what is being done, and how many phases are behind: each level is one, each half of the limit too."""


@dataclass(frozen=True)
class Plan:
    """What `bench run` was asked to do."""

    model: str
    url: str
    concurrency: tuple[int, ...]
    batch: int = 1
    repository: Path = Path("model_repository")
    artifact: Path | None = None
    threads: int | None = None
    images: Path | None = None
    timing: Timing = field(default_factory=Timing)

    @property
    def phases(self) -> int:
        return len(self.concurrency) + 2


@dataclass(frozen=True)
class Served:
    """The model as it is found on the server."""

    runner: TritonRunner
    backend: str
    max_batch: int
    threads: int
    """Intra-op threads of all its instances; 0 when its configuration leaves them to the library."""


@dataclass(frozen=True)
class Reference:
    """The artifact the limit is measured with, or why there is none."""

    path: Path | None
    threads: int
    missing: str | None = None


def run(plan: Plan, watch: Watch) -> Record:
    """Measure a served model.

    Raises InputError for a plan that does not fit the model, InferenceError when the server fails every request,
    and what opening the pictures and the artifact raises.
    """
    served = _served(plan)
    published = plan.repository / plan.model / served.runner.version
    pictures = pictures_for(served.runner.spec.preprocess, plan.images, published)
    reference = _reference(plan, published, served.threads)
    environment, started = environment_now(served.runner.server.release()), datetime.now(UTC)
    # A server that cannot answer, or answers NaN, is told of before anything is measured.
    task = task_of(served.runner.spec)
    for batch in batches_of(pictures.images, plan.batch):
        task.check_values(served.runner.infer(batch))
    before = _half_limit(served, pictures, reference, lambda text, part: watch(text, part))
    levels = _levels(plan, served.runner, pictures, watch)
    after = _half_limit(served, pictures, reference, lambda text, part: watch(text, plan.phases - 1 + part))
    limit = limit_of(before, after, reference.threads) if reference.path else None
    return Record(
        started_utc=started.replace(microsecond=0),
        subject=_subject(served, reference),
        load=_load(plan, pictures),
        levels=tuple(_level(measured, plan.batch, limit) for measured in levels),
        limit=limit,
        limit_missing=reference.missing,
        environment=environment,
    )


def _served(plan: Plan) -> Served:
    server = TritonServer(plan.url)
    config = server.config(plan.model)
    runner = TritonRunner(server, plan.model, server.version(plan.model))
    max_batch = runner.max_batch or 1
    if plan.batch > max_batch:
        raise InputError(f"--batch {plan.batch}: {runner.origin} takes at most {max_batch} images a request")
    backend = config.get("backend") or config.get("platform") or "unknown"
    return Served(runner, backend, max_batch, server_threads(config))


def _reference(plan: Plan, published: Path, threads: int) -> Reference:
    threads = threads if plan.threads is None else plan.threads
    if plan.artifact is not None:
        return Reference(plan.artifact, threads)
    host = plan.url.rpartition("://")[2].rpartition(":")[0]
    if host not in LOCAL_HOSTS:
        return Reference(None, threads, f"{host} is another machine: run this there, or give --artifact")
    path = published / "model.onnx"
    if not path.is_file():
        return Reference(None, threads, f"there is no {path}: give --repository or --artifact")
    return Reference(path, threads)


def _half_limit(served: Served, pictures: Pictures, reference: Reference, watch: Watch) -> tuple[LimitPoint, ...]:
    if reference.path is None:
        return ()
    sizes = batch_sizes(served.max_batch)
    # Opened for each half: the threads of an idle session must not run beside the load.
    with open_reference(reference.path, reference.threads, served.runner.spec) as in_process:
        return measure_points(
            in_process,
            pictures.images,
            sizes,
            LIMIT_POINT_S,
            on_size=lambda size: watch(f"limit in process, batch {size}", sizes.index(size) / len(sizes)),
        )


def _levels(plan: Plan, runner: TritonRunner, pictures: Pictures, watch: Watch) -> list[Measured]:
    batches = batches_of(pictures.images, plan.batch)
    measured: list[Measured] = []
    for phase, concurrency in enumerate(plan.concurrency, start=1):

        def on_window(done: int, phase: int = phase, concurrency: int = concurrency) -> None:
            watch(f"concurrency {concurrency}, {done} windows", phase + done / plan.timing.max_windows)

        on_window(0)
        measured.append(
            measure_level(
                runner, batches, concurrency, plan.timing, lambda: runner.server.counters(plan.model), on_window
            )
        )
    return measured


def _subject(served: Served, reference: Reference) -> Subject:
    runner = served.runner
    return Subject(
        model=runner.model,
        version=runner.version,
        url=runner.server.url,
        protocol=runner.server.protocol,
        backend=served.backend,
        max_batch=served.max_batch,
        input=str(runner.spec.input),
        artifact=str(reference.path) if reference.path else None,
        artifact_sha256=sha256_of(reference.path) if reference.path else None,
    )


def _load(plan: Plan, pictures: Pictures) -> Load:
    return Load(
        concurrency=plan.concurrency,
        batch=plan.batch,
        images=len(pictures.images),
        images_source=pictures.source,
        **asdict(plan.timing),
    )


def _level(measured: Measured, batch: int, limit: Limit | None) -> Level:
    fields = asdict(measured)
    figures = fields.pop("figures")
    images_per_s = figures.pop("requests_per_s") * batch
    share = images_per_s / limit.images_per_s if limit else None
    return Level(images_per_s=images_per_s, share_of_limit=share, **figures, **fields)
