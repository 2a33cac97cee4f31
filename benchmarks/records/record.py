"""A record: the immutable result of one benchmark, with model, load, limit and environment."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AwareDatetime, PositiveFloat, PositiveInt, ValidationError

from benchmarks.records.upgrade import upgraded
from tritonkit.errors import ExternalError, InputError, is_external_failure
from tritonkit.spec import Frozen, validation_problems
from tritonkit.system.files import atomic_write, check_can_write

SCHEMA_VERSION: Final = 3
"""`benchmarks/records/upgrade.py` reads the older ones."""
MAX_DRIFT = 0.1
"""A larger change of the limit, from before to after the load, is worth a remark."""
_PROBE_BYTES = 256 * 1024
"""Larger than a record."""


class MeasuredModel(Frozen):
    """The measured model."""

    model: str
    version: str
    url: str
    protocol: Literal["grpc", "http"]
    backend: str
    """Triton's backend or platform, such as `onnxruntime`."""
    max_batch: PositiveInt
    input: str
    settings: dict[str, Any] = {}
    """The part of the served configuration that decides about speed, in the words of `config.pbtxt`."""
    artifact: str | None = None
    """The file that was called in process for the limit."""
    artifact_sha256: str | None = None


class LoadSettings(Frozen):
    """The settings of the load."""

    scenario: Literal["closed", "open", "SingleStream", "MultiStream", "Server", "Offline"] = "closed"
    """closed: a fixed number of requests in flight. open: requests at given times. Others: as in MLPerf Inference."""
    arrivals: Literal["poisson", "constant", "trace"] | None = None
    """How the send times of an open loop were made; None for a closed loop."""
    trace: str | None = None
    """The file of send times."""
    trace_sha256: str | None = None
    p99_bound_ms: PositiveFloat | None = None
    """The bound of the scenario Server."""
    batch: PositiveInt
    """Images in each request."""
    images: PositiveInt
    """Number of different images; they are sent in turn."""
    images_source: str
    generated: bool = False
    """Whether the inputs are generated values, not images."""
    encoded: bool = False
    """Whether image files are sent, which the server decodes."""
    transport: Literal["grpc", "http", "shared_memory"]
    """How the images get to the server."""
    window_s: PositiveFloat
    max_windows: PositiveInt
    warm_up_s: float
    seed: int = 0
    """Of random send times."""
    concurrency: tuple[PositiveInt, ...] = ()
    """Levels of a closed loop: requests in flight."""
    rates: tuple[PositiveFloat, ...] = ()
    """Levels of an open loop: requests a second."""

    @property
    def planned_levels(self) -> int:
        """Number of levels that a complete record has; 0 for the scenario Server, which finds them while it runs."""
        return len(self.concurrency) + len(self.rates)


class Latencies(Frozen):
    """Mean and percentiles of latencies, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


class LevelSlice(Frozen):
    """The requests that ended in a slice of about half a second."""

    seconds: PositiveFloat
    requests: int
    mean_ms: float | None
    """None where no request ended."""
    p50_ms: float | None
    p99_ms: float | None


class Slip(Frozen):
    """How much later than intended the client sent, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    late_share: float
    """Share of the requests that were sent more than 1 ms late."""


class ServerTime(Frozen):
    """Where a request spent its time in the server, in microseconds: means, from Triton's statistics.

    Of an ensemble: the sums over its steps.
    """

    queue_us: float | None
    input_us: float | None = None
    """`compute_input`"""
    infer_us: float | None = None
    """`compute_infer`"""
    output_us: float | None = None
    """`compute_output`"""
    request_us: float | None = None
    """From the arrival of the request to its response: the four above, and what Triton does between them."""
    mean_batch: float | None
    """Mean images of an execution."""
    batches: dict[PositiveInt, int] = {}
    """Executions by batch size in images; empty for an ensemble."""
    steps: dict[str, ServerTime] = {}
    """The models that an ensemble calls."""


class ClientTime(Frozen):
    """What the load generator used."""

    cores: float
    """CPU time per second: 0.5 is half a core."""
    processes: PositiveInt = 1
    is_limit: bool = False
    """Whether the client, not the server, may have limited the throughput."""
    decode_us: float | None = None
    """Time to decode and resize one image file before the load, in microseconds; None where none was decoded."""
    network_us: float | None = None
    """Mean latency from the actual send, less the time in the server; at least 0, as both means have some error."""


class GpuUse(Frozen):
    """Means during a level of the GPUs that worked; None for a value that they do not report."""

    gpus: PositiveInt = 1
    utilization: float | None
    """0 to 1, the mean of the GPUs."""
    memory_mib: float | None
    """Of all processes, the sum of the GPUs."""
    watts: float | None
    joules_per_image: float | None


class Level(Frozen):
    """The result of one load: figures of the last three windows, errors of the whole level.

    Latencies count from the intended send. In a closed loop, that is the actual send.
    """

    concurrency: PositiveInt | None = None
    """Requests in flight of a closed loop."""
    rate: PositiveFloat | None = None
    """Requests a second that an open loop intended to send."""
    images_per_s: float
    share_of_limit: float | None
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    from_send: Latencies | None = None
    """Latencies from the actual send; None for a closed loop."""
    slip: Slip | None = None
    """None for a closed loop."""
    sent_per_s: float | None = None
    """Requests that were sent in the windows, a second; None for a closed loop."""
    refused: str | None = None
    """Why p99 is no valid figure: the client could not keep the schedule."""
    remark: str | None = None
    """What else a reader must know, such as a long pause in a trace."""
    requests: int
    errors: int
    first_error: str | None = None
    stable: bool
    windows: PositiveInt
    incomplete: str | None = None
    """Why the level ended early; its figures are of the time before."""
    in_turns: bool = False
    """Whether it was measured in short turns with the same level of other records of this run."""
    samples: tuple[LevelSlice, ...] = ()
    """Slices of all windows in their order, for confidence intervals; of levels in turns, equal numbers are pairs."""
    histogram: str = ""
    """Latencies of the counted windows in microseconds: an HdrHistogram of three digits, V2, compressed, base64."""
    server: ServerTime | None = None
    """None if the server's statistics could not be read."""
    client: ClientTime
    gpu: GpuUse | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the figures are stable, complete, without errors and not refused."""
        return self.stable and not (self.errors or self.refused or self.incomplete)

    def meets(self, p99_bound_ms: float) -> bool:
        """Whether p99 is valid and at most a bound, and no request failed."""
        return self.p99_ms <= p99_bound_ms and not (self.errors or self.refused or self.incomplete)

    @property
    def load(self) -> str:
        """The load in words, such as `concurrency 8` or `50 requests/s`."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"{round(self.rate, 2):g} requests/s"


class LimitPoint(Frozen):
    """In-process throughput of the artifact at one batch size."""

    batch: PositiveInt
    sessions: PositiveInt = 1
    """Sessions that were called at the same time."""
    images_per_s: PositiveFloat
    mean_ms: PositiveFloat


class Limit(Frozen):
    """The best in-process throughput over batch sizes and parallel sessions, mean of before and after the load."""

    images_per_s: PositiveFloat
    batch: PositiveInt
    sessions: PositiveInt = 1
    threads: int
    """Intra-op threads of each session; 0 is the default of the library, all cores."""
    exceeded: str | None = None
    """Why a served figure lies above the limit; None if none does."""
    before: tuple[LimitPoint, ...]
    after: tuple[LimitPoint, ...]
    """Empty in an incomplete record."""

    @property
    def drift(self) -> float:
        """Relative change of the best throughput, from before to after the load."""
        if not self.after:
            return 0.0
        return best_of(self.after).images_per_s / best_of(self.before).images_per_s - 1


class Environment(Frozen):
    """The machine of the load generator, and the server version."""

    cpu: str
    cores: PositiveInt
    """Cores that this process may use."""
    memory_gib: float
    gpus: tuple[str, ...] = ()
    platform: str
    python: str
    packages: dict[str, str]
    triton: str
    load_average: float
    """1-minute load average just before the start."""


class Record(Frozen):
    """The result of one `bench run`."""

    kind: Literal["tritonkit-benchmark"] = "tritonkit-benchmark"
    schema_version: Literal[3] = SCHEMA_VERSION
    run_id: str
    """Equal in the records of one run; empty in old records."""
    started_utc: AwareDatetime
    subject: MeasuredModel
    load: LoadSettings
    levels: tuple[Level, ...]
    limit: Limit | None
    limit_missing: str | None = None
    """Why there is no limit."""
    incomplete: str | None = None
    """Why levels are missing; None in a complete record."""
    environment: Environment
    arguments: tuple[str, ...] = ()
    """The words after `bench run` that measure this again; empty if unknown."""

    @property
    def name(self) -> str:
        """Model and version, as shown in legends."""
        return f"{self.subject.model} v{self.subject.version}"

    @property
    def best(self) -> Level:
        """The level with the highest throughput; levels under the bound of p99 and sound levels come first."""
        bound_ms = self.load.p99_bound_ms

        def rank(level: Level) -> tuple[bool, bool, float]:
            return bound_ms is None or level.meets(bound_ms), level.is_sound or bound_ms is not None, level.images_per_s

        return max(self.levels, key=rank)


def best_of(points: tuple[LimitPoint, ...]) -> LimitPoint:
    """Return the point with the highest throughput."""
    return max(points, key=lambda point: point.images_per_s)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON atomically. Raises InputError, or ExternalError for a full or failing disk."""
    with translate_write_errors(path, "record", "--output"), atomic_write(path) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_writable(path: Path) -> None:
    """Check before a benchmark that its record can be written. Raises what `write_record` raises."""
    check_can_write(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file; choose another --output", code="output.not_a_file")
    probe = path.with_name(f".{path.name}.probe")
    with translate_write_errors(path, "record", "--output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def translate_write_errors(path: Path, content: str, option: str) -> Iterator[None]:
    """Translate an OSError of writing `content` to a path that `option` chose: to InputError or ExternalError."""
    try:
        yield
    except OSError as error:
        error_type = ExternalError if is_external_failure(error) or error.errno == errno.EROFS else InputError
        raise error_type(
            f"{path}: the {content} cannot be written ({error.strerror or error}); choose another {option}",
            code="output.unwritable",
        ) from error


def read_record(path: Path) -> Record:
    """Read a record of this schema version or an older one. Raises InputError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the record cannot be read ({error.strerror})", code="record.unreadable") from error
    except ValueError as error:
        raise InputError(
            f"{path}: expected a record of `bench run`; this file is not JSON", code="record.not_json"
        ) from error
    if not isinstance(document, dict) or document.get("kind") != "tritonkit-benchmark":
        raise InputError(f"{path}: is JSON, but not a record of `bench run`", code="record.other_document")
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: written by a newer tritonkit (record version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade tritonkit to read it.",
            code="record.newer_version",
        )
    try:
        return Record.model_validate(upgraded(document))
    except ValidationError as error:
        raise InputError(f"{path}: not a valid record:\n{validation_problems(error)}", code="record.invalid") from error
