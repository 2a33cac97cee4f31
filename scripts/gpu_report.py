"""What a check on a GPU found: a JSON document, a table, and whether it is as it should be."""

from __future__ import annotations

from builder.proving.verdict import LIMITS
from builder.targets import Precision
from model.spec import Frozen

HEAD = """| network | way | relative error | against simulation | images/s | passed |
|---|---|---|---|---|---|"""


class Way(Frozen):
    """One way to run one network."""

    network: str
    way: str
    precision: Precision
    relative: float | None = None
    """Error relative to the variation of the answers of torch, fp32 on the CPU."""
    against_simulation: float | None = None
    """fp16: the same, from the answers of the simulation."""
    images_per_s: float | None = None
    skipped: str | None = None
    """Why it was not tried: something is not installed, or needs a GPU."""
    problem: str | None = None
    """Why it could not be run, though what it needs is installed."""

    @property
    def passed(self) -> bool:
        """It was not to be tried, or ran and kept to the limit of its precision."""
        limit = LIMITS[self.precision].relative
        errors = (error for error in (self.relative, self.against_simulation) if error is not None)
        return self.skipped is not None or (self.problem is None and all(error <= limit for error in errors))

    def row(self) -> str:
        """Its line of the table."""
        cells = [
            self.network,
            f"{self.way} {self.precision}",
            self.problem or self.skipped or _error(self.relative),
            _error(self.against_simulation),
            "" if self.images_per_s is None else f"{self.images_per_s:.0f}",
            "" if self.skipped else "yes" if self.passed else "NO",
        ]
        return f"| {' | '.join(cells)} |"


class Report(Frozen):
    """What the JSON holds."""

    device: str
    """`cuda`, or `cpu` where the script alone was tried."""
    gpu: str | None
    compute_capability: str | None
    driver: str | None
    """Version of NVIDIA's driver."""
    versions: dict[str, str]
    missing: dict[str, str]
    """By tool, why it could not be used."""
    batch: int
    """Images a run, where rates were taken."""
    runs: int
    """Whose median a rate is."""
    ways: tuple[Way, ...] = ()

    @property
    def passed(self) -> bool:
        """Did every way that could be tried run, and keep to its limit?"""
        return all(way.passed for way in self.ways)


def _error(relative: float | None) -> str:
    return "" if relative is None else f"{relative:.1e}"
