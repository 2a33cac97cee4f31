"""What `benchmarks.studies.serving.peers` makes of its slices: medians, ratios, checks, and the table of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.serving.closed_loop import Slice
from benchmarks.studies.study import markdown_row, medians
from tritonkit.errors import InputError
from tritonkit.system.files import atomic_write

TRITON, FASTAPI, IN_PROCESS = "Triton", "FastAPI", "in process"
LEAST_RATE = {1: 0.95, 8: 1.05, 32: 1.05}
"""Requests a second of Triton to those of FastAPI, by connections."""
MOST_P50 = 1.15
"""p50 of Triton at one connection to that in process."""
MOST_CLIENT = 0.5
"""Of a core, for the client."""
TABLE = re.compile(r"(<!-- peers -->\n).*?(<!-- /peers -->)", re.DOTALL)
"""The part of a page that `write_table` replaces."""

Levels = Mapping[int, Mapping[str, Sequence[Slice]]]
"""The slices of each server, by connections."""


def summarize(levels: Levels) -> dict[str, Any]:
    """Return the medians of each level, and the ratios that are checked."""
    rates, p50s, cpu = (
        {
            str(connections): medians({name: [getattr(each, field) for each in found] for name, found in level.items()})
            for connections, level in levels.items()
        }
        for field in ("requests_per_s", "p50_ms", "server_cpu_ms")
    )
    return {
        "requests_per_s": rates,
        "p50_ms": p50s,
        "server_cpu_ms": cpu,
        "ratio to FastAPI": {level: round(rate[TRITON] / rate[FASTAPI], 3) for level, rate in rates.items()},
        "p50 to in process": round(p50s["1"][TRITON] / p50s["1"][IN_PROCESS], 3),
    }


def checks(record: Mapping[str, Any], levels: Levels) -> dict[str, bool]:
    """Return the expectations, by sentence."""
    found = {}
    for connections, least in LEAST_RATE.items():
        ratio = record["ratio to FastAPI"][str(connections)]
        sentence = f"requests a second at {connections} connections: {ratio} of FastAPI, at least {least}"
        found[sentence] = ratio >= least
    p50 = record["p50 to in process"]
    found[f"p50 at one connection: {p50} of decoding and model in process, at most {MOST_P50}"] = p50 <= MOST_P50
    found["all servers return the same class"] = len({number for number, _ in record["classes"].values()}) == 1
    slices = [each for level in levels.values() for of_server in level.values() for each in of_server]
    failed, cores = sum(each.failed for each in slices), max(each.client_cores for each in slices)
    found[f"failed requests: {failed}, at most 0"] = not failed
    found[f"the client takes {cores} of a core, at most {MOST_CLIENT}"] = cores <= MOST_CLIENT
    return found


def table(record: Mapping[str, Any]) -> str:
    """Return the figures as Markdown, with machine and date."""
    rates, p50s, machine = record["requests_per_s"], record["p50_ms"], record["machine"]
    names = [*record["idle_cores"], IN_PROCESS]
    head = ["", *(f"{level} connection{'s' * (level != '1')}" for level in rates), "idle, cores"]
    rows = []
    for name in names:
        cells = [
            f"{rates[level][name]:.1f} ({p50s[level][name]:.1f} ms)" if name in rates[level] else "" for level in rates
        ]
        label = f"{name} {record['versions'].get(name, '')}".strip()
        rows.append(markdown_row([label, *cells, record["idle_cores"].get(name, "")]))
    measured = (
        f"Requests a second (p50), medians of {record['rounds']} rounds of {record['seconds']:g} s; {record['date']}, "
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}:"
    )
    return "\n".join([measured, "", markdown_row(head), markdown_row(["---"] * len(head)), *rows])


def write_table(page: Path, record: Mapping[str, Any]) -> None:
    """Replace the table between the two comments of a page. Raises InputError if it has none."""
    text = page.read_text(encoding="utf-8")
    if not TABLE.search(text):
        raise InputError(f"{page}: has no <!-- peers --> and <!-- /peers -->", code="data.no_peer_table")
    with atomic_write(page) as temporary:
        temporary.write_text(TABLE.sub(lambda marks: f"{marks[1]}{table(record)}\n{marks[2]}", text), encoding="utf-8")
