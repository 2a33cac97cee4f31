"""What a running server tells of its models."""

from __future__ import annotations

from model.spec import Frozen
from server.control import Control, VersionState, VersionStatistics


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


def read_status(control: Control) -> Status:
    """Ask a server. Raises InferenceError, or InputError for a token that it does not take."""
    if not control.is_ready():
        return Status(ready=False)
    index = control.index()
    statistics = {(one.name, one.version): one for one in control.statistics()}
    rows = tuple(_model_row(state, statistics.get((state.name, state.version))) for state in _current_states(index))
    return Status(ready=not _unavailable_models(index), models=rows)


def _unavailable_models(index: list[VersionState]) -> set[str]:
    """Models that were to be loaded and have no version that answers.

    Triton remembers for ever that a version failed, after a newer success and after unloading too.
    """
    failed = {row.name for row in index if row.has_failed or row.state == "LOADING"}
    unloaded = {row.name for row in index if row.state and row.is_unloaded}
    return failed - unloaded - {row.name for row in index if row.state == "READY"}


def _current_states(index: list[VersionState]) -> list[VersionState]:
    """Without versions that were replaced: a model that answers is not told by those that it no longer has."""
    ready = {row.name for row in index if row.state == "READY"}
    return [row for row in index if not (row.is_unloaded and row.version and row.name in ready)]


def _model_row(state: VersionState, statistics: VersionStatistics | None) -> ModelRow:
    statistics = statistics or VersionStatistics(name=state.name, version=state.version)
    return ModelRow(
        model=state.name,
        version=state.version,
        state="NOT LOADED" if state.is_unloaded and state.state != "UNLOADING" else state.state,
        requests=statistics.requests,
        failures=statistics.failures,
        images=statistics.images,
        mean_batch=round(statistics.images / max(1, statistics.executions), 2),
        queue_us=round(statistics.queue_ns / max(1, statistics.queue_count) / 1000),
        reason=state.reason.splitlines()[0] if state.has_failed else "",
    )
