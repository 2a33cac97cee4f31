"""What a running server tells of its models."""

from __future__ import annotations

from model.spec import Frozen
from server.control import Control, Counters, VersionState


class ModelRow(Frozen):
    """A version's state and what it has done since it was loaded."""

    model: str
    version: str
    state: str
    requests: int
    failures: int
    images: int
    mean_batch: float
    """Images of one run of the model, in the mean."""
    queue_us: int
    """Mean time a request waited before it ran."""
    reason: str = ""
    """Why it could not be loaded."""


class Status(Frozen):
    """Whether a server is as it should be, and its models."""

    ready: bool
    """Whether the server answers, and each of its models does in some version."""
    models: tuple[ModelRow, ...] = ()


def status_of(control: Control) -> Status:
    """Ask a server. Raises InferenceError, or InputError for a token that it does not take."""
    if not control.is_ready():
        return Status(ready=False)
    index = control.index()
    counted = {(one.name, one.version): one for one in control.counters()}
    rows = tuple(_row(state, counted.get((state.name, state.version))) for state in _current(index))
    return Status(ready=not _without_answer(index), models=rows)


def _without_answer(index: list[VersionState]) -> set[str]:
    """Models that were to be loaded and have no version that answers.

    Triton remembers for ever that a version failed, after a newer success and after unloading too.
    """
    lost = {row.name for row in index if row.failed or row.state == "LOADING"}
    let_go = {row.name for row in index if row.state and row.unloaded}
    return lost - let_go - {row.name for row in index if row.state == "READY"}


def _current(index: list[VersionState]) -> list[VersionState]:
    """Without versions that were replaced: a model that answers is not told by those that it no longer has."""
    answering = {row.name for row in index if row.state == "READY"}
    return [row for row in index if not (row.unloaded and row.version and row.name in answering)]


def _row(state: VersionState, counted: Counters | None) -> ModelRow:
    counted = counted or Counters(name=state.name, version=state.version)
    return ModelRow(
        model=state.name,
        version=state.version,
        state="NOT LOADED" if state.unloaded and state.state != "UNLOADING" else state.state,
        requests=counted.requests,
        failures=counted.failures,
        images=counted.images,
        mean_batch=round(counted.images / max(1, counted.executions), 2),
        queue_us=round(counted.queue_ns / max(1, counted.queued) / 1000),
        reason=state.reason.splitlines()[0] if state.failed else "",
    )
