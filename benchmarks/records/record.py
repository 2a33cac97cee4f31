"""A record: the immutable result of one benchmark, with model, load, limit and environment."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, PositiveFloat, PositiveInt, ValidationError

from tritonkit.errors import ExternalError, InputError, is_external_failure
from tritonkit.spec import Frozen, validation_problems
from tritonkit.system.files import atomic_write, check_can_write

SCHEMA_VERSION: Final = 2
"""2 added `incomplete` and `load.generated`."""
_PROBE_BYTES = 64 * 1024
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
    artifact: str | None = None
    """The file that was called in process for the limit."""
    artifact_sha256: str | None = None


class LoadSettings(Frozen):
    """The settings of the load."""

    kind: Literal["closed"] = "closed"
    concurrency: tuple[PositiveInt, ...]
    batch: PositiveInt
    """Images in each request."""
    images: PositiveInt
    """Number of different images; they are sent in turn."""
    images_source: str
    generated: bool = False
    """Whether the inputs are generated values, not images."""
    window_s: PositiveFloat
    max_windows: PositiveInt
    warm_up_s: float


class Level(Frozen):
    """The result at one concurrency: figures of the last three windows, errors of the whole level."""

    concurrency: PositiveInt
    images_per_s: float
    share_of_limit: float | None
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    requests: int
    errors: int
    first_error: str | None = None
    stable: bool
    windows: PositiveInt
    mean_batch: float | None
    queue_us: float | None
    client_cores: float


class LimitPoint(Frozen):
    """In-process throughput of the artifact at one batch size."""

    batch: PositiveInt
    images_per_s: PositiveFloat
    mean_ms: PositiveFloat


class Limit(Frozen):
    """The best in-process throughput over all batch sizes, each the mean of before and after the load."""

    images_per_s: PositiveFloat
    batch: PositiveInt
    threads: int
    """Intra-op threads; 0 is the default of the library, all cores."""
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
    schema_version: Literal[1, 2] = SCHEMA_VERSION
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

    @property
    def name(self) -> str:
        """Model and version, as shown in legends."""
        return f"{self.subject.model} v{self.subject.version}"

    @property
    def best(self) -> Level:
        """The level with the highest throughput; stable levels without errors come first."""
        return max(self.levels, key=lambda level: (level.stable and not level.errors, level.images_per_s))


def best_of(points: tuple[LimitPoint, ...]) -> LimitPoint:
    """Return the point with the highest throughput."""
    return max(points, key=lambda point: point.images_per_s)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON atomically. Raises InputError, or ExternalError for a full or failing disk."""
    with _translate_write_errors(path), atomic_write(path) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_writable(path: Path) -> None:
    """Check before a benchmark that its record can be written. Raises what `write_record` raises."""
    check_can_write(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file; choose another --output", code="output.not_a_file")
    probe = path.with_name(f".{path.name}.probe")
    with _translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def _translate_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error_type = ExternalError if is_external_failure(error) or error.errno == errno.EROFS else InputError
        raise error_type(
            f"{path}: the record cannot be written ({error.strerror or error}); choose another --output",
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
        return Record.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: not a valid record:\n{validation_problems(error)}", code="record.invalid") from error
