"""What a benchmark is compared with: another model, version or server, measured in turns, or a record."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from benchmarks.records.compare import BenchmarkResult, read_measured
from benchmarks.target import BenchmarkPlan
from tritonkit.errors import InputError
from tritonkit.triton.client import check_model_name

RECORD_SUFFIXES = (".json", ".csv")
_VERSION = re.compile(r"[1-9]\d*")


def parse_model(text: str) -> tuple[str, str]:
    """Parse `MODEL` or `MODEL:VERSION`; the version is empty without one. Raises InputError."""
    model, separator, version = text.partition(":")
    if separator and not _VERSION.fullmatch(version):
        raise InputError(f"{text}: expected MODEL or MODEL:VERSION, such as cats:3", code="benchmark.model_version")
    check_model_name(model)
    return model, version


def parse_against(text: str, plan: BenchmarkPlan) -> BenchmarkPlan | BenchmarkResult:
    """Parse `--against`: a record or a CSV of perf_analyzer; `MODEL`, `MODEL:VERSION`, `HOST:PORT/MODEL` or a URL.

    Returns the record, or the plan of the same load on another model. Raises InputError.
    """
    path = Path(text)
    if path.suffix in RECORD_SUFFIXES or path.is_file():
        return read_measured(path)
    if plan.scenario.name == "Server":
        raise InputError(
            "--against: the search of --scenario Server measures each model at other rates, so there are no levels to "
            "compare; use --rate with rates that both can serve",
            code="benchmark.against_search",
        )
    scheme, separator, rest = text.rpartition("://")
    address, _, name = rest.rpartition("/") if "/" in rest or not separator else (rest, "", "")
    url = f"{scheme}{separator}{address}" if address else plan.url
    model, version = parse_model(name) if name else (plan.model, "")
    if (url, model, version) == (plan.url, plan.model, plan.version):
        raise InputError(
            f"--against {text}: is the measured model itself; expected another model, MODEL:VERSION, "
            "HOST:PORT/MODEL, or a record",
            code="benchmark.against_itself",
        )
    return replace(plan, url=url, model=model, version=version, artifact=None)
