"""A record: one measurement with everything needed to judge it. Written once, never changed."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, PositiveFloat, PositiveInt, ValidationError

from model.errors import ExternalError, InputError, is_outside
from model.files import atomic_write, check_can_write
from model.spec import Frozen, problems_of

SCHEMA_VERSION: Final = 2
"""2 added `incomplete` and `load.generated`."""
_PROBE_BYTES = 64 * 1024
"""More than a record has."""


class Subject(Frozen):
    """What was measured."""

    model: str
    version: str
    url: str
    protocol: Literal["grpc", "http"]
    backend: str
    """Triton's backend or platform, such as `onnxruntime`."""
    max_batch: PositiveInt
    input: str
    artifact: str | None = None
    """The file the limit was measured with."""
    artifact_sha256: str | None = None


class Load(Frozen):
    """How it was asked."""

    kind: Literal["closed"] = "closed"
    concurrency: tuple[PositiveInt, ...]
    batch: PositiveInt
    """Images in one request."""
    images: PositiveInt
    """Different images sent, over and over."""
    images_source: str
    generated: bool = False
    """Whether the inputs are made-up values and no pictures."""
    window_s: PositiveFloat
    max_windows: PositiveInt
    warm_up_s: float


class Level(Frozen):
    """The figures at one concurrency, over the last three windows; errors over the whole level."""

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
    """The artifact called in process, one batch after another."""

    batch: PositiveInt
    images_per_s: PositiveFloat
    mean_ms: PositiveFloat


class Limit(Frozen):
    """What the same artifact reaches in process: the best over all batch sizes, each the mean of before and after."""

    images_per_s: PositiveFloat
    batch: PositiveInt
    threads: int
    """Intra-op threads; 0 leaves the number to the library, which takes all cores."""
    before: tuple[LimitPoint, ...]
    after: tuple[LimitPoint, ...]
    """Empty in an incomplete record."""

    @property
    def drift(self) -> float:
        """Best after over best before, less 1: how much faster the machine became meanwhile."""
        if not self.after:
            return 0.0
        return best_of(self.after).images_per_s / best_of(self.before).images_per_s - 1


class Environment(Frozen):
    """The machine the load came from, and the server's version."""

    cpu: str
    cores: PositiveInt
    """Those this process may use."""
    memory_gib: float
    gpus: tuple[str, ...] = ()
    platform: str
    python: str
    packages: dict[str, str]
    triton: str
    load_average: float
    """Runnable processes over the last minute, just before the start."""


class Record(Frozen):
    """One run of `bench run`."""

    kind: Literal["tritonkit-benchmark"] = "tritonkit-benchmark"
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    started_utc: AwareDatetime
    subject: Subject
    load: Load
    levels: tuple[Level, ...]
    limit: Limit | None
    limit_missing: str | None = None
    """Why there is no limit."""
    incomplete: str | None = None
    """Why levels of `load` are missing; None in a record of all of them."""
    environment: Environment

    @property
    def name(self) -> str:
        """Model and version, as legends show it."""
        return f"{self.subject.model} v{self.subject.version}"

    @property
    def best(self) -> Level:
        """The level with most images a second; an unstable or failing one only where there is no other."""
        return max(self.levels, key=lambda level: (level.stable and not level.errors, level.images_per_s))


def best_of(points: tuple[LimitPoint, ...]) -> LimitPoint:
    """The batch size with most images a second."""
    return max(points, key=lambda point: point.images_per_s)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all. Raises InputError, ExternalError for a full or failing disk."""
    with _place_errors(path), atomic_write(path) as beside:
        beside.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_place(path: Path) -> None:
    """Find out before measuring whether a record can be written. Raises what `write_record` raises."""
    check_can_write(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no regular file; choose another --output")
    probe = path.with_name(f".{path.name}.probe")
    with _place_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def _place_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = ExternalError if is_outside(error) or error.errno == errno.EROFS else InputError
        raise kind(
            f"{path}: the record cannot be written ({error.strerror or error}); choose another --output"
        ) from error


def read_record(path: Path) -> Record:
    """Read a record. Raises InputError for anything but one of this schema version or an older one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the record cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: expected a record written by `bench run`; this is not JSON") from error
    if not isinstance(document, dict) or document.get("kind") != "tritonkit-benchmark":
        raise InputError(f"{path}: is JSON, but not a record written by `bench run`")
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: written by a newer tritonkit (record version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade tritonkit to read it."
        )
    try:
        return Record.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: not a valid record:\n{problems_of(error)}") from error
