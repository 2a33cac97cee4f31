"""Check that the spec inside an artifact equals its checkpoint's: clients use it to read the outputs.

Names and lineages may differ. Architecture and normalization are part of the graph and are verified by its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from builder.onnx.interface import spec_in_onnx
from tritonkit.errors import Problem, SpecError
from tritonkit.spec import ModelSpec, TaskSpec

_REMEDY = "Export it again, or verify it with the --threshold, --probability and --auxiliary it was exported with"


def spec_problems(artifact: Path, spec: ModelSpec) -> list[Problem]:
    """The differences between the spec in an ONNX file and the checkpoint's; empty for a file without a spec."""
    try:
        found = spec_in_onnx(artifact)
    except SpecError as error:
        return [Problem("verdict.spec", str(error))]
    return [] if found is None else compare_specs(found, spec)


def compare_specs(found: ModelSpec, expected: ModelSpec) -> list[Problem]:
    """The differences between an artifact's spec and the checkpoint's: `FIELD is X, the checkpoint's Y`."""
    differences = [*_task_differences(found, expected, "")]
    expected_fields = asdict(expected.preprocess)
    for name, value in asdict(found.preprocess).items():
        if value != expected_fields[name]:
            differences.append(_difference_text(f"preprocess.{name}", value, expected_fields[name]))
    if found.outputs != expected.outputs:
        outputs = (", ".join(map(str, side.outputs)) for side in (found, expected))
        differences.append(_difference_text("outputs", *outputs))
    return [Problem("verdict.spec", f"the artifact's {difference}. {_REMEDY}") for difference in differences]


def _task_differences(found: TaskSpec, expected: TaskSpec, prefix: str) -> Iterator[str]:
    for name in ("task", "embedding_size", "probability", "gallery"):
        value, expected_value = getattr(found, name), getattr(expected, name)
        if value != expected_value:
            yield _difference_text(prefix + name, value, expected_value)
    if len(found.labels) != len(expected.labels):
        yield _difference_text(f"{prefix}labels", f"{len(found.labels)} labels", f"{len(expected.labels)}")
    elif found.labels != expected.labels:
        pairs = enumerate(zip(found.labels, expected.labels, strict=True))
        first, labels = next((index, labels) for index, labels in pairs if labels[0] != labels[1])
        yield _difference_text(f"{prefix}labels[{first}]", *labels)
    for label in expected.labels:
        thresholds = [task.threshold(label) for task in (found, expected)]
        if thresholds[0] != thresholds[1]:
            yield _difference_text(f"{prefix}thresholds.{label}", *thresholds)
    if list(found.heads) != list(expected.heads):
        yield _difference_text(f"{prefix}heads", list(found.heads), list(expected.heads))
        return
    for name, task in expected.heads.items():
        yield from _task_differences(found.heads[name], task, f"{prefix}heads.{name}.")


def _difference_text(field: str, value: object, expected_value: object) -> str:
    return f"{field} is {value!r}, the checkpoint's {expected_value!r}"
