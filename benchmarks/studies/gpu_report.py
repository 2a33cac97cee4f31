"""The result of a GPU check: a JSON document, a table, and whether it passed."""

from __future__ import annotations

from tritonkit.repository.verdict import LIMITS
from tritonkit.runtimes.formats import Precision
from tritonkit.spec import Frozen

HEAD = """| network | runtime | relative error | against simulation | images/s | passed |
|---|---|---|---|---|---|"""


class RuntimeResult(Frozen):
    """Result of one network in one runtime."""

    network: str
    runtime: str
    precision: Precision
    relative: float | None = None
    """Error relative to the variation of the answers of torch, fp32 on the CPU."""
    against_simulation: float | None = None
    """fp16: the same, from the answers of the simulation."""
    images_per_s: float | None = None
    skipped: str | None = None
    """Why it did not run: a package or GPU is missing."""
    problem: str | None = None
    """Why it failed, although all requirements are installed."""

    @property
    def passed(self) -> bool:
        """Whether it was skipped, or ran within the limit of its precision."""
        limit = LIMITS[self.precision].relative
        errors = (error for error in (self.relative, self.against_simulation) if error is not None)
        return self.skipped is not None or (self.problem is None and all(error <= limit for error in errors))

    def row(self) -> str:
        """Return the row of the table."""
        cells = [
            self.network,
            f"{self.runtime} {self.precision}",
            self.problem or self.skipped or _error(self.relative),
            _error(self.against_simulation),
            "" if self.images_per_s is None else f"{self.images_per_s:.0f}",
            "" if self.skipped else "yes" if self.passed else "NO",
        ]
        return f"| {' | '.join(cells)} |"


class GpuReport(Frozen):
    """The JSON document of a GPU check."""

    device: str
    """`cuda`, or `cpu` for a test of the script without a GPU."""
    gpu: str | None
    compute_capability: str | None
    driver: str | None
    """Version of NVIDIA's driver."""
    versions: dict[str, str]
    missing: dict[str, str]
    """Reason for each package that could not be used."""
    batch: int
    """Images in each run of a rate."""
    runs: int
    """Number of runs; a rate is their median."""
    results: tuple[RuntimeResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether each runtime was skipped or ran within its limit."""
        return all(way.passed for way in self.results)


def _error(relative: float | None) -> str:
    return "" if relative is None else f"{relative:.1e}"
