"""The served file that is called in process, to measure the limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.limit import batch_sizes, measure_limit
from benchmarks.records.record import LimitPoint
from benchmarks.target import BenchmarkPlan, BenchmarkTarget
from tritonkit.errors import InputError
from tritonkit.runtimes.formats import backend_format
from tritonkit.system.files import file_sha256


@dataclass(frozen=True)
class LimitArtifact:
    """The artifact to measure the limit with, or why there is none."""

    path: Path | None
    threads: int = 0
    missing: str | None = None

    @property
    def sha256(self) -> str | None:
        """The hash of the file."""
        return file_sha256(self.path) if self.path else None

    def measure(self, target: BenchmarkTarget, on_point: Callable[[str, float], None]) -> tuple[LimitPoint, ...]:
        """Measure all batch sizes; none without an artifact. Raises errors of opening and running the artifact."""
        if self.path is None or target.triton_runner is None or target.pictures is None:
            return ()
        return measure_limit(
            self.path,
            self.threads,
            target.triton_runner.spec,
            target.pictures.images,
            batch_sizes(target.max_batch),
            on_point,
        )


def find_reference(plan: BenchmarkPlan, target: BenchmarkTarget) -> LimitArtifact:
    """Return the served file of a model. Raises InputError for an --artifact that no in-process call can use."""
    if target.triton_runner is None:
        if plan.artifact is not None:
            raise InputError(
                f"--artifact: {plan.model} was not published by `builder`, so no file can be called in process",
                code="benchmark.no_spec",
            )
        return LimitArtifact(None, missing=target.no_limit)
    threads = target.threads if plan.threads is None else plan.threads
    if plan.artifact is not None:
        return LimitArtifact(plan.artifact, threads)
    address = target.server.connection.address
    if not address.is_loopback:
        return LimitArtifact(
            None,
            missing=f"{address.host} is another machine: run `bench` there, or name the file with --artifact",
        )
    known = backend_format(target.backend)
    if known is None:
        return LimitArtifact(None, missing=f"files of the backend {target.backend} cannot be called in process")
    path = plan.repository / plan.model / target.version / known.file
    if not path.is_file():
        return LimitArtifact(None, missing=f"there is no {path}: use --repository or --artifact")
    if find_spec(known.library) is None:
        install = f"pip install 'tritonkit[{known.extra}]'"
        return LimitArtifact(None, missing=f"{path} needs {known.library} to be called in process: {install}")
    return LimitArtifact(path, threads)
