"""Models of a running server: loaded again, loaded, unloaded, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from model.encoded import ensemble_of
from model.errors import CheckFailedError, InputError
from model.spec import Frozen
from server.control import Control, VersionState, check_name
from server.log import failures
from server.runtime import Server
from server.runtime_table import runtime_of


class Change(Frozen):
    """What a model answered with before and after, and why it could not be loaded, if it could not."""

    model: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Versions that answer."""
    problem: str = ""
    warning: str = ""
    """What did not come along with a model that was loaded."""


def load(control: Control, server: Server | None, models: Sequence[str] = ()) -> list[Change]:
    """Load models, with what the ensembles among them need; Triton passes over those whose files have not changed.

    server: the one of this machine behind `control`: its log tells more, and its options which models it is to have.
    models: none are all that the server is to have: those it has, and, where it loads whatever its repository holds,
    those that came since; none that somebody unloaded.
    Raises InputError for a name that the repository does not have.
    """
    index = control.index()
    names = check_known(index, models, control.url) if models else _wanted(index, takes_new=_takes_all(server))
    there = {row.name for row in index if not row.unloaded}
    changes = []
    for name in names:
        # In one step with the models that take encoded pictures: they would not fit another size of it.
        ensemble = ensemble_of(name)
        lost = _refusal(control, server, ensemble) if ensemble in there else ""
        change = _loaded(control, server, name, _ready(index, name))
        if lost and not change.problem and ensemble not in names:  # which is told of by itself
            goes_on = "it goes on as it was" if _ready(control.index(), ensemble) else "it does not answer"
            said = f"{ensemble} could not be loaded along with {name}: {lost.rstrip('.')}; {goes_on}"
            change = change.model_copy(update={"warning": said})
        changes.append(change)
    return changes


def unload(control: Control, models: Sequence[str]) -> list[Change]:
    """Unload models; a Change for each model that stopped answering. Raises InputError for an unknown name."""
    before = control.index()
    for name in check_known(before, models, control.url):
        control.unload(name)
    after = control.index()
    changes = [
        Change(model=name, before=_ready(before, name), after=_ready(after, name))
        for name in dict.fromkeys(row.name for row in before)
    ]
    return [change for change in changes if change.model in models or change.before != change.after]


def not_loaded(index: Sequence[VersionState], models: Sequence[str]) -> list[str]:
    """Names of models that were to be loaded at the start, and were not in every version of their policy.

    models: those that were named; none are all that the repository has.
    """
    ready = {row.name for row in index if row.state == "READY"}
    wanted = set(models) or {row.name for row in index}
    return sorted((wanted - ready) | {row.name for row in index if row.failed})


def check_known(index: Sequence[VersionState], models: Sequence[str], url: str) -> list[str]:
    """The names, once each. Raises InputError naming what the repository has."""
    names = sorted({row.name for row in index})
    for model in models:
        check_name(model)
        if model not in names:
            raise InputError(f"the repository of {url} has no model {model!r}; it has: {', '.join(names) or 'none'}")
    return list(dict.fromkeys(models))


def _wanted(index: Sequence[VersionState], takes_new: bool) -> list[str]:
    """Models with a version that answers or failed; those never loaded too where all are to be served."""
    rows = [row for row in index if not row.unloaded or (takes_new and not row.state)]
    return list(dict.fromkeys(row.name for row in rows))


def _takes_all(server: Server | None) -> bool:
    return server is not None and not server.options.models


def _ready(index: Sequence[VersionState], model: str) -> tuple[str, ...]:
    return tuple(row.version for row in index if row.name == model and row.state == "READY")


def _loaded(control: Control, server: Server | None, model: str, before: tuple[str, ...]) -> Change:
    problem = _refusal(control, server, model)
    return Change(model=model, before=before, after=_ready(control.index(), model), problem=problem)


def _refusal(control: Control, server: Server | None, model: str) -> str:
    """Load a model; why Triton refuses, empty where it does not."""
    said = len(_log(server))
    try:
        control.load(model)
    except CheckFailedError as refusal:
        return _reason(control.index(), model, _log(server)[said:]) or str(refusal)
    return ""


def _reason(index: Sequence[VersionState], model: str, log: str) -> str:
    """What the log says, which is all that tells of a config.pbtxt that cannot be read, else the index."""
    begins = (f"model {model} ", f"model {model}: ")
    told = [line.removeprefix(begins[0]).removeprefix(begins[1]) for line in failures(log) if line.startswith(begins)]
    if not told:
        bad = [row for row in index if row.name == model and row.failed]
        told = [f"version {row.version}: {row.reason.splitlines()[0]}" for row in bad]
    return "; ".join(told)


def _log(server: Server | None) -> str:
    if server is None:
        return ""
    runtime_of(server).save_log(server)
    return server.log.read_text(errors="replace") if server.log.is_file() else ""
