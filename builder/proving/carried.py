"""The spec that an artifact carries must agree with its checkpoint's: clients decide by it.

Names and lineages may differ. Architecture and normalisation are inside the graph, which is judged by its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from builder.onnx_export import spec_in_onnx
from model.errors import Problem, SpecError
from model.spec import ModelSpec, TaskSpec

_REMEDY = "Export it again, or verify it with the --threshold and --probability it was exported with"


def spec_problems(artifact: Path, spec: ModelSpec) -> list[Problem]:
    """Where the spec in an ONNX file differs from the checkpoint's in what decides answers; none without one."""
    try:
        carried = spec_in_onnx(artifact)
    except SpecError as error:
        return [Problem(code="spec", message=str(error))]
    return [] if carried is None else problems_of_spec(carried, spec)


def problems_of_spec(carried: ModelSpec, spec: ModelSpec) -> list[Problem]:
    """The same, where the artifact's spec is known."""
    found = differences(carried, spec)
    return [Problem(code="spec", message=f"the artifact's {difference}. {_REMEDY}") for difference in found]


def differences(carried: ModelSpec, spec: ModelSpec) -> Iterator[str]:
    """Each difference as `FIELD is X, the checkpoint's Y`."""
    yield from _of_questions(carried, spec, "")
    theirs, ours = asdict(carried.preprocess), asdict(spec.preprocess)
    for name, value in theirs.items():
        if value != ours[name]:
            yield _said(f"preprocess.{name}", value, ours[name])
    if carried.outputs != spec.outputs:
        yield _said("outputs", *(", ".join(map(str, side.outputs)) for side in (carried, spec)))


def _of_questions(carried: TaskSpec, asked: TaskSpec, head: str) -> Iterator[str]:
    for name in ("task", "embedding_size", "probability"):
        theirs, ours = getattr(carried, name), getattr(asked, name)
        if theirs != ours:
            yield _said(head + name, theirs, ours)
    if carried.labels != asked.labels:
        yield _of_labels(head, carried.labels, asked.labels)
    for label in asked.labels:
        limits = [question.threshold(label) for question in (carried, asked)]
        if limits[0] != limits[1]:
            yield _said(f"{head}thresholds.{label}", *limits)
    if list(carried.heads) != list(asked.heads):
        yield _said(f"{head}heads", list(carried.heads), list(asked.heads))
        return
    for name, question in asked.heads.items():
        yield from _of_questions(carried.heads[name], question, f"{head}heads.{name}.")


def _of_labels(head: str, carried: Sequence[str], asked: Sequence[str]) -> str:
    if len(carried) != len(asked):
        return _said(f"{head}labels", f"{len(carried)} labels", f"{len(asked)}")
    first = next(place for place, (theirs, ours) in enumerate(zip(carried, asked, strict=True)) if theirs != ours)
    return _said(f"{head}labels[{first}]", carried[first], asked[first])


def _said(field: str, theirs: object, ours: object) -> str:
    return f"{field} is {theirs!r}, the checkpoint's {ours!r}"
