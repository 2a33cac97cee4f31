"""Whether two records can be compared: the same kind of load, inputs and machine; and what else differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.records.record import Record
from tritonkit.errors import InputError, Problem

_LOAD = ("scenario", "arrivals", "trace (SHA-256)", "p99 bound in ms", "images a request")


def check_alike(old: Record, new: Record) -> None:
    """Check that two records differ only in what may be compared. Raises InputError with all differences."""
    conditions = _conditions(old), _conditions(new)
    if _is_same_run(old, new):
        # Two models, versions or servers, measured in turns on purpose.
        inputs = ("input", "different images", "images", "image files", "generated values", "transport")
        conditions = tuple({name: value for name, value in side.items() if name not in inputs} for side in conditions)  # type: ignore[assignment]
    if differences := _differences(*conditions):
        same_load = all(conditions[0][name] == conditions[1][name] for name in _LOAD)
        advice = "both in one run with `bench run --against`" if same_load else "both with the same load"
        raise InputError(
            f"the records are not alike, so their figures cannot be compared: {'; '.join(differences)}. "
            f"Measure {advice}",
            code="record.unlike",
            problems=[Problem("record.unlike", difference) for difference in differences],
        )


def changes(old: Record, new: Record) -> tuple[str, ...]:
    """Return what differs between two records that are alike: model, settings and software."""
    return tuple(_differences(_subject(old), _subject(new)))


def _is_same_run(old: Record, new: Record) -> bool:
    """Whether two records are those of one run."""
    return bool(old.run_id) and old.run_id == new.run_id


def _conditions(record: Record) -> dict[str, Any]:
    load, machine = record.load, record.environment
    return {
        "scenario": load.scenario,
        "arrivals": load.arrivals,
        "trace (SHA-256)": load.trace_sha256,
        "p99 bound in ms": load.p99_bound_ms,
        "images a request": load.batch,
        "transport": load.transport,
        "image files": load.encoded,
        "generated values": load.generated,
        "input": record.subject.input,
        "different images": load.images,
        "images": load.images_source.partition(" (")[0],  # without the path of a version's golden sample
        "processor": machine.cpu,
        "cores": machine.cores,
        "GPUs": ", ".join(gpu.partition(",")[0] for gpu in machine.gpus) or None,  # without the driver's version
    }


def _subject(record: Record) -> dict[str, Any]:
    subject, machine = record.subject, record.environment
    return {
        "model": subject.model,
        "version": subject.version,
        "server": subject.url,
        "backend": subject.backend,
        "artifact (SHA-256)": subject.artifact_sha256,
        "input": subject.input,
        **{f"settings: {name}": value for name, value in sorted(subject.settings.items())},
        "Triton": machine.triton,
        "GPUs": ", ".join(machine.gpus) or None,
        "platform": machine.platform,
        "Python": machine.python,
        **{f"package {name}": version for name, version in sorted(machine.packages.items())},
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys((*old, *new))
    return [f"{name}: {_text(old, name)} and {_text(new, name)}" for name in names if old.get(name) != new.get(name)]


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "none" if value is None else str(value)
