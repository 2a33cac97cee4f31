"""Loads, reloads and unloads models of a running server, and reports what changed."""

from __future__ import annotations

from collections.abc import Sequence

from server.load_failures import load_failures
from server.runtimes.base import Server
from server.runtimes.table import runtime_of
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.spec import Frozen
from tritonkit.triton.companions import ensemble_of
from tritonkit.triton.control import Control, VersionState, check_model_name


class ModelChange(Frozen):
    """The ready versions of a model before and after a change, and why it failed to load."""

    model: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Ready versions."""
    problem: str = ""
    warning: str = ""
    """Why the ensemble of a loaded model failed to load."""


def load(control: Control, server: Server | None, models: Sequence[str] = ()) -> list[ModelChange]:
    """Load models and the members of ensembles; Triton skips models whose files have not changed.

    server: the local server behind `control`, for its log and its options; None for a remote server.
    models: empty means all loaded or failed models and, if the server serves its whole repository, new ones; unloaded
    models stay unloaded.
    Raises InputError for an unknown model.
    """
    index = control.index()
    names = (
        check_models_exist(index, models, control.url)
        if models
        else _models_to_reload(index, include_new=_serves_all(server))
    )
    loaded = {row.name for row in index if not row.is_unloaded}
    changes = []
    for name in names:
        # Load the ensemble first: with it Triton loads the model, its decoder and itself in one step.
        ensemble = ensemble_of(name)
        ensemble_problem = _try_load(control, server, ensemble) if ensemble in loaded else ""
        change = _load_model(control, server, name, _ready_versions(index, name))
        if ensemble_problem and not change.problem and ensemble not in names:  # else it has its own ModelChange
            consequence = (
                "it keeps serving its previous version"
                if _ready_versions(control.index(), ensemble)
                else "it is not ready"
            )
            warning = f"{ensemble} could not be loaded along with {name}: {ensemble_problem.rstrip('.')}; {consequence}"
            change = change.model_copy(update={"warning": warning})
        changes.append(change)
    return changes


def unload(control: Control, models: Sequence[str]) -> list[ModelChange]:
    """Unload models. Returns a ModelChange for each model that is no longer ready. Raises InputError."""
    before = control.index()
    for name in check_models_exist(before, models, control.url):
        control.unload(name)
    after = control.index()
    changes = [
        ModelChange(model=name, before=_ready_versions(before, name), after=_ready_versions(after, name))
        for name in dict.fromkeys(row.name for row in before)
    ]
    return [change for change in changes if change.model in models or change.before != change.after]


def missing_models(index: Sequence[VersionState], models: Sequence[str]) -> list[str]:
    """Return the models that failed to load at the start, in any version of their policy.

    models: the models to load; empty means all of the repository.
    """
    ready = {row.name for row in index if row.state == "READY"}
    expected = set(models) or {row.name for row in index}
    return sorted((expected - ready) | {row.name for row in index if row.has_failed})


def check_models_exist(index: Sequence[VersionState], models: Sequence[str], url: str) -> list[str]:
    """Return the names without duplicates. Raises InputError for an unknown model."""
    names = sorted({row.name for row in index})
    for model in models:
        check_model_name(model)
        if model not in names:
            raise InputError(
                f"the repository of {url} has no model {model!r}; it has: {', '.join(names) or 'none'}",
                code="repository.no_model",
            )
    return list(dict.fromkeys(models))


def _models_to_reload(index: Sequence[VersionState], include_new: bool) -> list[str]:
    """Return the models with a ready or failed version; with `include_new` also those that were never loaded."""
    rows = [row for row in index if not row.is_unloaded or (include_new and not row.state)]
    return list(dict.fromkeys(row.name for row in rows))


def _serves_all(server: Server | None) -> bool:
    return server is not None and not server.options.models


def _ready_versions(index: Sequence[VersionState], model: str) -> tuple[str, ...]:
    return tuple(row.version for row in index if row.name == model and row.state == "READY")


def _load_model(
    control: Control, local_server: Server | None, model: str, ready_before: tuple[str, ...]
) -> ModelChange:
    problem = _try_load(control, local_server, model)
    return ModelChange(model=model, before=ready_before, after=_ready_versions(control.index(), model), problem=problem)


def _try_load(control: Control, server: Server | None, model: str) -> str:
    """Load a model. Returns Triton's reason if it fails, else an empty string."""
    log_length = len(_read_log(server))
    try:
        control.load(model)
    except CheckFailedError as refusal:
        return _failure_reason(control.index(), model, _read_log(server)[log_length:]) or str(refusal)
    return ""


def _failure_reason(index: Sequence[VersionState], model: str, log: str) -> str:
    """Return the reason from the log, the only source for an unreadable config.pbtxt, else from the index."""
    prefixes = (f"model {model} ", f"model {model}: ")
    reasons = [
        line.removeprefix(prefixes[0]).removeprefix(prefixes[1])
        for line in load_failures(log)
        if line.startswith(prefixes)
    ]
    if not reasons:
        failed = [row for row in index if row.name == model and row.has_failed]
        reasons = [f"version {row.version}: {row.reason.splitlines()[0]}" for row in failed]
    return "; ".join(reasons)


def _read_log(server: Server | None) -> str:
    if server is None:
        return ""
    runtime_of(server).save_log(server)
    return server.log.read_text(errors="replace") if server.log.is_file() else ""
