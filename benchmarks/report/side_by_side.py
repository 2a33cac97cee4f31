"""Models, loads and machines of several records as one table, in which differences are marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.records.record import Record
from benchmarks.report.remarks import load_words

UNKNOWN = "—"
ALWAYS_DIFFERENT = ("started", "load average before")
"""Not marked."""


class PropertyRow(NamedTuple):
    """A property, and its value in each record."""

    name: str
    values: tuple[str, ...]

    @property
    def is_common(self) -> bool:
        """Whether all records have the same value."""
        return len(set(self.values)) == 1

    @property
    def is_marked(self) -> bool:
        """Whether the records differ in what could be equal."""
        return not self.is_common and self.name not in ALWAYS_DIFFERENT


class PropertySection(NamedTuple):
    """Rows under a common title."""

    title: str
    rows: tuple[PropertyRow, ...]


def sections(records: Sequence[Record]) -> list[PropertySection]:
    """Return model, served configuration, load and machine; rows that are empty in all records are left out."""
    tables = [[_model(record), _configuration(record), _load(record), _machine(record)] for record in records]
    titles = ("Model", "Served configuration", "Load", "Machine of the load generator")
    return [_section(title, columns) for title, columns in zip(titles, zip(*tables, strict=True), strict=True)]


def _section(title: str, columns: Sequence[dict[str, Any]]) -> PropertySection:
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [PropertyRow(name, tuple(_text(column.get(name)) for column in columns)) for name in names]
    return PropertySection(title, tuple(row for row in rows if set(row.values) != {UNKNOWN}))


def _text(value: Any) -> str:
    """Return a value as text: of a configuration, such as `count 2, kind KIND_CPU; count 1, kind KIND_GPU`."""
    match value:
        case None | "":
            return UNKNOWN
        case dict():
            return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()) or UNKNOWN
        case list() | tuple():
            return "; ".join(map(_text, value)) or UNKNOWN
        case _:
            return str(value)


def _model(record: Record) -> dict[str, Any]:
    subject = record.subject
    return {
        "model": subject.model,
        "version": subject.version,
        "server": f"Triton {record.environment.triton} at {subject.url} ({subject.protocol})",
        "backend": subject.backend,
        "input": subject.input,
        "artifact": subject.artifact,
        "sha256": subject.artifact_sha256,
    }


def _configuration(record: Record) -> dict[str, Any]:
    return {"max_batch_size": record.subject.max_batch, **record.subject.settings}


def _load(record: Record) -> dict[str, Any]:
    load = record.load
    return {
        "scenario": load_words(record),
        "concurrency": ", ".join(map(str, load.concurrency)),
        "rates, requests/s": ", ".join(f"{rate:g}" for rate in load.rates),
        "trace": load.trace and f"{load.trace}, sha256 {load.trace_sha256}",
        "different images": f"{load.images}: {load.images_source}",
        "transport": load.transport.replace("_", " "),
        "windows": f"{load.window_s:g} s, at most {load.max_windows}, after {load.warm_up_s:g} s of warm-up",
        "seed": str(load.seed) if load.arrivals == "poisson" else None,
        "client processes": ", ".join(map(str, sorted({level.client.processes for level in record.levels}))),
        "started": f"{record.started_utc:%Y-%m-%d %H:%M:%S} UTC",
    }


def _machine(record: Record) -> dict[str, Any]:
    machine = record.environment
    return {
        "processor": machine.cpu,
        "cores": str(machine.cores),
        "memory": f"{machine.memory_gib:g} GiB",
        "GPU": "; ".join(machine.gpus) or "none",
        "load average before": f"{machine.load_average:g}",
        "platform": machine.platform,
        "Python": machine.python,
        **machine.packages,
    }
