"""One measurement from start to end: the limit, every level of load, the limit again, the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment_now
from benchmarks.images import Pictures, pictures_for
from benchmarks.inputs import TensorModel, generated, owner_of, picture_files, takes_files
from benchmarks.limit import batch_sizes, limit_of, measure_points, open_reference, server_threads
from benchmarks.load import Asks, Measured, Timing, batches_of, measure_level
from benchmarks.record import Level, Limit, LimitPoint, Load, Record, Subject
from model.console import warn
from model.errors import InputError
from model.files import sha256_of
from model.runners.triton import TritonRunner, TritonServer
from model.spec import METADATA_KEY
from model.tasks import task_of

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
LIMIT_POINT_S = 2.0
"""How long each batch size is called in process, before the load and again after it."""
RUNNING = "it is still running, or was killed"

Watch = Callable[[str, float], None]
"""Gets the current step and the number of finished phases: each level is a phase, and each half of the limit."""
Keep = Callable[[Record], None]
"""Gets the incomplete record after each level."""


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
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sizes of inputs whose own are not fixed, without the batch."""

    @property
    def phases(self) -> int:
        return len(self.concurrency) + 2


@dataclass(frozen=True)
class Served:
    """The model as it is found on the server, and what it is sent."""

    server: TritonServer
    version: str
    backend: str
    max_batch: int
    threads: int
    """Intra-op threads of all its instances; 0 when its configuration leaves them to the library."""
    input: str
    asks: Asks[Any]
    batches: Sequence[Any]
    images: int
    source: str
    generated: bool = False
    no_limit: str = "only a model that `builder` has published is also called in process"
    pictures: Pictures | None = None
    """Of a model of `builder`, which can be called in process with them."""

    @property
    def runner(self) -> TritonRunner | None:
        """Of a model of `builder`."""
        return self.asks if isinstance(self.asks, TritonRunner) else None


@dataclass(frozen=True)
class Reference:
    """The artifact the limit is measured with, or why there is none."""

    path: Path | None
    threads: int
    missing: str | None = None


def run(plan: Plan, watch: Watch, keep: Keep = lambda record: None) -> Record:
    """Measure a served model.

    Raises InputError for a plan that does not fit the model, InferenceError when the server fails every request,
    and what opening the pictures and the artifact raises. What `keep` was given last is all that was measured then.
    """
    served = _served(plan)
    reference = _reference(plan, served)
    environment, started = environment_now(served.server.release()), datetime.now(UTC)
    _check_answers(served)
    before = _half_limit(served, reference, lambda text, part: watch(text, part))

    def record(measured: Sequence[Measured], after: tuple[LimitPoint, ...], incomplete: str | None) -> Record:
        limit = limit_of(before, after, reference.threads) if reference.path else None
        return Record(
            started_utc=started.replace(microsecond=0),
            subject=_subject(plan, served, reference),
            load=_load(plan, served),
            levels=tuple(_level(one, plan.batch, limit) for one in measured),
            limit=limit,
            limit_missing=reference.missing,
            incomplete=incomplete,
            environment=environment,
        )

    levels: list[Measured] = []
    for level in _levels(plan, served, watch):
        levels.append(level)
        keep(record(levels, (), RUNNING))
    after = _half_limit(served, reference, lambda text, part: watch(text, plan.phases - 1 + part))
    return record(levels, after, None)


def _check_answers(served: Served) -> None:
    """Find out before anything is measured whether the server answers, and with values that mean something.

    Of a model that `builder` has not published, NaN is a warning: generated input may cause it. Raises AnswerError for
    NaN and the like, InferenceError.
    """
    if served.runner is None:
        outputs = served.asks.infer(served.batches[0])
        for name, array in outputs.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                warn(f"warning: output {name} has NaN or infinite values; the figures are those of a broken model")
        return
    task = task_of(served.runner.spec)
    for batch in served.batches:
        task.check_values(served.runner.infer(batch))


def _served(plan: Plan) -> Served:
    server = TritonServer(plan.url)
    config = server.config(plan.model)
    version = server.version(plan.model)
    largest = int(config.get("max_batch_size", 0))
    if plan.batch > max(1, largest):
        raise InputError(
            f"--batch {plan.batch}: {plan.url}/{plan.model} takes at most {max(1, largest)} images a request"
        )
    backend = config.get("backend") or config.get("platform") or "unknown"
    found = {"version": version, "backend": backend, "max_batch": max(1, largest), "threads": server_threads(config)}
    if METADATA_KEY in config.get("parameters", {}):
        return _of_pixels(plan, TritonRunner(server, plan.model, version), found)
    return _of_tensors(plan, TensorModel(server, plan.model, version, config), config, server, found)


def _of_pixels(plan: Plan, runner: TritonRunner, found: Mapping[str, Any]) -> Served:
    """A model that `builder` has published: it is sent pixels."""
    if plan.shapes:
        raise InputError(f"--shape: {runner.origin} takes {runner.spec.input}, whose sizes are fixed")
    pictures = pictures_for(runner.spec.preprocess, plan.images, plan.repository / plan.model / runner.version)
    return Served(
        server=runner.server,
        input=str(runner.spec.input),
        asks=runner,
        batches=batches_of(pictures.images, plan.batch),
        images=len(pictures.images),
        source=pictures.source,
        pictures=pictures,
        **found,
    )


def _of_tensors(
    plan: Plan, model: TensorModel, config: Mapping[str, Any], server: TritonServer, found: Mapping[str, Any]
) -> Served:
    """Any other model: it is sent picture files where it takes them, else generated values."""
    owner, origin = owner_of(config), f"{plan.url}/{plan.model}"
    if takes_files(model) and (owner or plan.images is not None):
        published = plan.repository / owner / (server.version(owner) if owner else "")
        requests = picture_files(model, plan.batch, plan.images, published)
    elif plan.images is not None:
        raise InputError(f"--images: {origin} takes no picture files; without it, generated values are sent")
    else:
        requests = generated(model, plan.batch, int(config.get("max_batch_size", 0)) > 0, plan.shapes, origin)
    if owner:
        found = {**found, "no_limit": f"the server decodes the pictures; {owner}, without that, has one"}
    return Served(server=server, input=", ".join(map(str, model.inputs)), asks=model, **requests._asdict(), **found)


def _reference(plan: Plan, served: Served) -> Reference:
    if served.runner is None:
        if plan.artifact is not None:
            raise InputError(f"--artifact: {plan.model} has no spec of `builder`, by which a file would be called")
        return Reference(None, 0, served.no_limit)
    threads = served.threads if plan.threads is None else plan.threads
    if plan.artifact is not None:
        return Reference(plan.artifact, threads)
    host = plan.url.rpartition("://")[2].rpartition(":")[0]
    if host not in LOCAL_HOSTS:
        return Reference(None, threads, f"{host} is another machine: run this there, or give --artifact")
    path = plan.repository / plan.model / served.version / "model.onnx"
    if not path.is_file():
        return Reference(None, threads, f"there is no {path}: give --repository or --artifact")
    return Reference(path, threads)


def _half_limit(served: Served, reference: Reference, watch: Watch) -> tuple[LimitPoint, ...]:
    if reference.path is None or served.runner is None or served.pictures is None:
        return ()
    sizes = batch_sizes(served.max_batch)
    # Opened for each half: the threads of an idle session must not run beside the load.
    with open_reference(reference.path, reference.threads, served.runner.spec) as in_process:
        return measure_points(
            in_process,
            served.pictures.images,
            sizes,
            LIMIT_POINT_S,
            on_size=lambda size: watch(f"limit in process, batch {size}", sizes.index(size) / len(sizes)),
        )


def _levels(plan: Plan, served: Served, watch: Watch) -> Iterator[Measured]:
    for phase, concurrency in enumerate(plan.concurrency, start=1):

        def on_window(done: int, phase: int = phase, concurrency: int = concurrency) -> None:
            watch(f"concurrency {concurrency}, {done} windows", phase + done / plan.timing.max_windows)

        on_window(0)
        yield measure_level(
            served.asks,
            served.batches,
            concurrency,
            plan.timing,
            lambda: served.server.counters(plan.model),
            on_window,
        )


def _subject(plan: Plan, served: Served, reference: Reference) -> Subject:
    return Subject(
        model=plan.model,
        version=served.version,
        url=served.server.url,
        protocol=served.server.protocol,
        backend=served.backend,
        max_batch=served.max_batch,
        input=served.input,
        artifact=str(reference.path) if reference.path else None,
        artifact_sha256=sha256_of(reference.path) if reference.path else None,
    )


def _load(plan: Plan, served: Served) -> Load:
    return Load(
        concurrency=plan.concurrency,
        batch=plan.batch,
        images=served.images,
        images_source=served.source,
        generated=served.generated,
        **asdict(plan.timing),
    )


def _level(measured: Measured, batch: int, limit: Limit | None) -> Level:
    fields = asdict(measured)
    figures = fields.pop("figures")
    images_per_s = figures.pop("requests_per_s") * batch
    share = images_per_s / limit.images_per_s if limit else None
    return Level(images_per_s=images_per_s, share_of_limit=share, **figures, **fields)
