"""Open the model that answers: on a server, or from an artifact in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client.connection import OnFailure, server_at
from tritonkit.errors import InputError, SpecError
from tritonkit.runtimes import Runner, open_artifact
from tritonkit.runtimes.base import pipeline_error
from tritonkit.tasks import Task, task_of

if TYPE_CHECKING:
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import Connection


def open_runner(
    source: Path | None,
    url: str | Connection,
    model: str | None,
    version: str,
    on_failure: OnFailure = lambda error: None,
    pinned: bool = False,
    pipelines: bool = False,
) -> Runner:
    """Open the artifact `source`, or if that is None, a model of the server at `url`.

    model: None selects the only model of the server.
    on_failure: called with the error of each failed request before its retry, in the thread of the request.
    pinned: whether one version answers all requests, even if the server loads another version.
    pipelines: whether the caller can send whole image files, as a pipeline takes them.

    Raises InputError, ArtifactError, InferenceError, SpecError.
    """
    if source is not None:
        return open_artifact(source)
    from tritonkit.triton.runner import TritonRunner

    server = server_at(url, on_failure)
    if not model:
        ready = models_with_spec(server)
        if len(ready) != 1:
            raise InputError(
                f"{server.url} serves {', '.join(ready) or 'no model'}; choose a model with --model",
                code="server.which_model",
            )
        model = ready[0]
    runner = TritonRunner(server, model, version)
    if runner.spec.pipeline is not None and not pipelines:
        server.close()
        raise pipeline_error(runner.spec, runner.origin)
    return runner.pin_version() if pinned else runner


def models_with_spec(server: TritonClient) -> list[str]:
    """Return the ready models that have a spec, so no decoders and no ensembles. Raises InferenceError."""
    ready = sorted({row.name for row in server.models() if row.is_ready})
    return [name for name in ready if server.model(name).has_spec]


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold outside 0..1; None is valid. Raises InputError."""
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(
            f"--threshold {threshold}: expected a probability above 0 and below 1", code="option.threshold_range"
        )


def task_with_threshold(runner: Runner, threshold: float | None) -> Task:
    """Return the runner's task, with this threshold if it is set. Raises InputError for a task without a threshold."""
    task = task_of(runner.spec)
    if threshold is None:
        return task
    try:
        return task.with_threshold(threshold)
    except SpecError as error:
        raise InputError(f"--threshold {threshold}: {error} ({runner.origin})", code=error.code) from error
