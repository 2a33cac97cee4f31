"""What a benchmark measures: a served model, and the requests to send to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.inputs import (
    PreparedModel,
    SampleImages,
    TensorModel,
    accepts_image_files,
    batches_of,
    generate_requests,
    image_file_requests,
    load_sample_images,
)
from benchmarks.limit import server_threads
from benchmarks.load.level import Timing
from benchmarks.load.processes import Requests
from benchmarks.scenarios import Scenario
from tritonkit.errors import InputError
from tritonkit.system.console import warn
from tritonkit.tasks import task_of
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection
from tritonkit.triton.runner import TritonRunner
from tritonkit.triton.served_model import ServedModel
from tritonkit.triton.shared_memory import MIN_BYTES

_SEQUENCES_A_PROCESS = 1_000_000_000
"""Client processes number their sequences apart."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """The options of `bench run`."""

    model: str
    url: str
    scenario: Scenario
    version: str = ""
    """Empty for the newest."""
    batch: int | None = None
    """Images in each request; None is the default of the scenario."""
    repository: Path = Path("model_repository")
    artifact: Path | None = None
    threads: int | None = None
    images: Path | None = None
    timing: Timing = field(default_factory=Timing)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sizes of inputs with dynamic sizes, without the batch axis."""
    shared_memory: bool = False
    processes: int | None = None
    """Client processes; None starts more where one is the limit."""
    arguments: tuple[str, ...] = ()
    """The words after `bench run`, for the record."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """The served model, and the requests to send."""

    server: TritonClient
    version: str
    backend: str
    batch: int
    """Images in each request."""
    max_batch: int
    instances: int
    threads: int
    """Intra-op threads of all instances; 0 is the default of the library."""
    input: str
    model: TensorModel
    runner: TritonRunner | TensorModel
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
    def transport(self) -> Literal["grpc", "http", "shared_memory"]:
        """How the images get to the server."""
        return "shared_memory" if self.server.connection.shared_memory else self.server.protocol

    @property
    def triton_runner(self) -> TritonRunner | None:
        """The runner of a model that `builder` published; None for other models."""
        return self.runner if isinstance(self.runner, TritonRunner) else None

    @property
    def requests(self) -> Requests:
        """The requests to send; all but those through shared memory are encoded once, before the load."""
        if self.transport == "shared_memory":
            return Requests(self.runner, self.batches, self.server.close)
        runner = self.triton_runner
        inputs = [{runner.spec.input.name: batch} for batch in self.batches] if runner else self.batches
        prepared = [self.model.prepare(batch) for batch in inputs]
        return Requests(PreparedModel(self.model), prepared, self.server.close)


def connect(plan: BenchmarkPlan, process: int = 0, client: TritonClient | None = None) -> BenchmarkTarget:
    """Connect to the server, and prepare the requests.

    process: the index of this client process. client: None makes one with the plan's address.
    Raises InputError for options that do not fit the model, InferenceError, and errors of loading images.
    """
    client = client or TritonClient(Connection(url=plan.url, shared_memory=plan.shared_memory))
    served = client.model(plan.model, plan.version)
    version = plan.version or client.version(plan.model)
    max_batch = max(1, served.max_batch)
    batch = plan.scenario.batch(plan.batch, max_batch)
    if batch > max_batch:
        raise InputError(
            f"{batch} images in a request: {served.origin} takes at most {max_batch} images per request",
            code="benchmark.batch_too_large",
        )
    common = {
        "version": version,
        "backend": served.backend,
        "batch": batch,
        "max_batch": max_batch,
        "instances": served.instances,
        "threads": server_threads(served),
        "steps": served.steps,
    }
    model = TensorModel(client, served, version, first_sequence=1 + process * _SEQUENCES_A_PROCESS)
    common["model"] = model
    if served.has_spec and served.spec().pipeline is None:
        return _pixel_target(plan, TritonRunner(client, plan.model, version), common)
    return _tensor_target(plan, model, served, client, common)


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
        batches=batches_of(pictures.images, common["batch"]),
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
    if plan.shared_memory:
        raise InputError(
            f"--shared-memory: {served.origin} does not take the pixels of a model that `builder` published; only "
            "those are sent through shared memory",
            code="benchmark.no_shared_memory",
        )
    owner = served.encoded_of
    if accepts_image_files(model) and (owner or plan.images is not None):
        owner_version = client.version(owner) if owner else ""
        folder, has_batch_axis = plan.repository / owner / owner_version, served.max_batch > 0
        requests = image_file_requests(model, common["batch"], has_batch_axis, plan.images, folder)
    elif served.has_spec:
        raise InputError(
            f"{served.origin}: is a pipeline, which takes whole image files; name a folder of them with --images",
            code="benchmark.no_images",
        )
    elif plan.images is not None:
        raise InputError(
            f"--images: {served.origin} takes no image files; without --images, generated values are sent",
            code="benchmark.takes_no_images",
        )
    else:
        requests = generate_requests(model, common["batch"], served.max_batch > 0, plan.shapes, served.origin)
    if served.has_spec:
        common = {**common, "no_limit": "a pipeline is no artifact; measure the models that it calls for a limit"}
    if owner:
        common = {**common, "no_limit": f"the server decodes the images; measure {owner} for a limit"}
    return BenchmarkTarget(
        server=client, input=", ".join(map(str, model.inputs)), runner=model, **requests._asdict(), **common
    )


def open_requests(plan: BenchmarkPlan, process: int) -> Requests:
    """Connect in a client process of its own. Raises the errors of `connect`."""
    return connect(plan, process).requests


def check_outputs(target: BenchmarkTarget) -> None:
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
    if target.transport == "shared_memory" and not target.server.uses_shared_memory:
        raise InputError(
            f"--shared-memory: {target.server.url} got no image through shared memory. Requests smaller than "
            f"{MIN_BYTES // 1024} KiB are not sent so, and a server since 26.04 needs --allow-client-shm=true",
            code="benchmark.no_shared_memory",
        )
