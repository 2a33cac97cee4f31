"""The status of a running server and its models."""

from __future__ import annotations

from tritonkit.spec import Frozen
from tritonkit.triton.control import Control, VersionState, VersionStatistics


class ModelRow(Frozen):
    """The state of a version, and its statistics since it was loaded."""

    model: str
    version: str
    state: str
    requests: int
    failures: int
    images: int
    mean_batch: float
    """Mean number of images in one execution."""
    queue_us: int
    """Mean time of a request in the queue, in microseconds."""
    reason: str = ""
    """Why the version failed to load."""


class Status(Frozen):
    """Whether a server is ready, and its models."""

    ready: bool
    """Whether the server and at least one version of each of its models are ready."""
    models: tuple[ModelRow, ...] = ()


def read_status(control: Control) -> Status:
    """Read the status from a server. Raises InferenceError, or TokenError for a wrong token."""
    if not control.is_ready():
        return Status(ready=False)
    index = control.index()
    statistics = {(entry.name, entry.version): entry for entry in control.statistics()}
    rows = tuple(_model_row(state, statistics.get((state.name, state.version))) for state in _current_states(index))
    return Status(ready=not _unavailable_models(index), models=rows)


def _unavailable_models(index: list[VersionState]) -> set[str]:
    """Return the models that failed to load or still load, and have no ready version.

    Triton lists a failed version for ever, even after a newer version was loaded or the model was unloaded.
    """
    failed = {row.name for row in index if row.has_failed or row.state == "LOADING"}
    unloaded = {row.name for row in index if row.state and row.is_unloaded}
    return failed - unloaded - {row.name for row in index if row.state == "READY"}


def _current_states(index: list[VersionState]) -> list[VersionState]:
    """Drop replaced versions of models that have a ready version."""
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
