"""Opening what answers: a served model, or an artifact in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client.connection import OnFailure, server_at
from model.errors import InputError, SpecError
from model.runners import Runner, open_artifact
from model.spec import METADATA_KEY
from model.tasks import Task, task_of

if TYPE_CHECKING:
    from model.connection import Connection
    from model.runners.triton import TritonServer


def open_runner(
    source: Path | None,
    where: str | Connection,
    model: str | None,
    version: str,
    on_failure: OnFailure = lambda error: None,
    pinned: bool = False,
) -> Runner:
    """An artifact, or with `source` None a model of the server at `where`; `model` None is the only one there.

    on_failure: told of each failed request before it is repeated, in the thread that asks.
    pinned: whether one version answers all requests, also when the server loads another meanwhile.

    Raises InputError, ArtifactError, InferenceError, SpecError.
    """
    if source is not None:
        return open_artifact(source)
    from model.runners.triton import TritonRunner

    server = server_at(where, on_failure)
    runner = TritonRunner(server, model or only_model(server), version)
    return runner.pinned() if pinned else runner


def models_with_spec(server: TritonServer) -> list[str]:
    """The ready models that the builder published: not their decoders and ensembles. Raises InferenceError."""
    ready = sorted({state.name for state in server.models() if state.state == "READY"})
    return [name for name in ready if METADATA_KEY in server.config(name).get("parameters", {})]


def only_model(server: TritonServer) -> str:
    """The one model that a server serves. Raises InputError when there are more or none."""
    ready = models_with_spec(server)
    if len(ready) == 1:
        return ready[0]
    raise InputError(f"{server.url} serves {', '.join(ready) or 'no model'}; choose one with --model")


def check_threshold(threshold: float | None) -> None:
    """Refuse what is no threshold; None is none given. Raises InputError."""
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: is a probability between 0 and 1, neither of them included")


def task_with(runner: Runner, threshold: float | None) -> Task:
    """The runner's task, with another threshold where one is given. Raises InputError for a task that has none."""
    task = task_of(runner.spec)
    if threshold is None:
        return task
    try:
        return task.with_threshold(threshold)
    except SpecError as error:
        raise InputError(f"--threshold {threshold}: {error} ({runner.origin})") from error
