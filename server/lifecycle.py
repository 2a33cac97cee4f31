"""The models of a running server: shows their state, loads, reloads and unloads them, and reports what changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Self

from server.load_failures import load_failures
from server.runtimes.base import Server
from server.runtimes.table import runtime_of
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.signing.check import check_signed, delete_python_caches
from tritonkit.spec import Frozen
from tritonkit.triton.client import Statistics, TritonClient, VersionState, check_model_name
from tritonkit.triton.companions import ensemble_of
from tritonkit.triton.model_config import holds_model


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


class ModelChange(Frozen):
    """The ready versions of a model before and after a change, and why it failed to load."""

    model: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Ready versions."""
    problem: str = ""
    warning: str = ""
    """Why the ensemble of a loaded model failed to load."""


class ModelManager(AbstractContextManager["ModelManager"]):
    """Shows and changes the models of a server. A context, which closes the client.

    Every method raises InferenceError, or TokenError for a wrong token.
    """

    def __init__(self, client: TritonClient, server: Server | None) -> None:
        """server: the server of this machine behind `client`, for its log and options; None for a remote one."""
        self._client = client
        self._server = server

    @classmethod
    def of(cls, server: Server, timeout_s: float = 20.0) -> Self:
        """Open the models of a server on this machine. timeout_s: the deadline of loading one."""
        return cls(server.client(timeout_s), server)

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def index(self) -> list[VersionState]:
        """Return Triton's index, without the folders that are no models, such as `.git`: Triton lists them too."""
        rows = self._client.index()
        if self._server is None:
            return rows
        repository = self._server.options.repository
        return [
            row for row in rows if row.is_ready or not (folder := repository / row.name).is_dir() or holds_model(folder)
        ]

    def status(self) -> Status:
        """Read the state and the statistics of all versions."""
        if not self._client.is_ready():
            return Status(ready=False)
        index, statistics = self.index(), self._client.statistics()
        ready = {row.name for row in index if row.is_ready}
        # Triton lists a failed version for ever, even after a newer version was loaded or the model was unloaded.
        unloaded = {row.name for row in index if row.state and row.is_unloaded}
        unavailable = {row.name for row in index if row.has_failed or row.state == "LOADING"} - unloaded - ready
        rows = []
        for state in index:
            if state.is_unloaded and state.version and state.name in ready:
                continue  # it was replaced
            counts = statistics.get((state.name, state.version), Statistics())
            rows.append(
                ModelRow(
                    model=state.name,
                    version=state.version,
                    state="NOT LOADED" if state.is_unloaded and state.state != "UNLOADING" else state.state,
                    requests=counts.requests,
                    failures=counts.failures,
                    images=counts.images,
                    mean_batch=round(counts.mean_batch or 0, 2),
                    queue_us=round(counts.queue_us or 0),
                    reason=state.reason.splitlines()[0] if state.has_failed else "",
                )
            )
        return Status(ready=not unavailable, models=tuple(rows))

    def missing(self, models: Sequence[str]) -> list[str]:
        """Return the models that failed to load at the start, in any version of their policy.

        models: the models to load; empty means all of the repository.
        """
        index = self.index()
        expected = set(models) or {row.name for row in index}
        ready = {row.name for row in index if row.is_ready}
        return sorted((expected - ready) | {row.name for row in index if row.has_failed})

    def load(self, models: Sequence[str] = ()) -> list[ModelChange]:
        """Load models and the members of ensembles; Triton skips models whose files have not changed.

        models: empty means all loaded or failed models and, if the server serves its whole repository, new ones;
        unloaded models stay unloaded.
        Raises InputError for an unknown model, CheckFailedError for one that is not signed as the server requires.
        """
        index = self.index()
        serves_all = self._server is not None and not self._server.options.models
        reloadable = [row.name for row in index if not row.is_unloaded or (serves_all and not row.state)]
        names = self._existing(index, models) if models else list(dict.fromkeys(reloadable))
        loaded = {row.name for row in index if not row.is_unloaded}
        if self._server is not None and (key := self._server.options.require_signed) is not None:
            ensembles = [name for name in map(ensemble_of, names) if name in loaded]
            delete_python_caches(self._server.options.repository)
            check_signed(self._server.options.repository, [*names, *ensembles], key)
        changes = []
        for name in names:
            # Load the ensemble first: with it Triton loads the model, its decoder and itself in one step.
            ensemble = ensemble_of(name)
            ensemble_problem = self._try_load(ensemble) if ensemble in loaded else ""
            problem, warning = self._try_load(name), ""
            after = self.index()
            if ensemble_problem and not problem and ensemble not in names:  # else it has its own ModelChange
                serving = "it keeps serving its previous version"
                consequence = serving if _ready_versions(after, ensemble) else "it is not ready"
                reason = ensemble_problem.rstrip(".")
                warning = f"{ensemble} could not be loaded along with {name}: {reason}; {consequence}"
            changes.append(
                ModelChange(
                    model=name,
                    before=_ready_versions(index, name),
                    after=_ready_versions(after, name),
                    problem=problem,
                    warning=warning,
                )
            )
        return changes

    def unload(self, models: Sequence[str]) -> list[ModelChange]:
        """Unload models. Returns a ModelChange for each model that is no longer ready. Raises InputError."""
        before = self.index()
        names = self._existing(before, models)
        ready = {row.name for row in before if row.is_ready}
        # An ensemble goes with its model; NAME_encoded may be served by one process instead.
        for name in dict.fromkeys([*names, *(set(map(ensemble_of, names)) & ready)]):
            self._client.unload(name)
        after = self.index()
        changes = [
            ModelChange(model=name, before=_ready_versions(before, name), after=_ready_versions(after, name))
            for name in dict.fromkeys(row.name for row in before)
        ]
        return [change for change in changes if change.model in models or change.before != change.after]

    def _existing(self, index: Sequence[VersionState], models: Sequence[str]) -> list[str]:
        """Return the names without duplicates. Raises InputError for an unknown model."""
        names = sorted({row.name for row in index})
        for model in models:
            check_model_name(model)
            if model not in names:
                raise InputError(
                    f"the repository of {self._client.url} has no model {model!r}; "
                    f"it has: {', '.join(names) or 'none'}",
                    code="repository.no_model",
                )
        return list(dict.fromkeys(models))

    def _try_load(self, model: str) -> str:
        """Load a model. Returns the reason if it fails, else an empty string.

        The reason comes from the log, the only source for an unreadable config.pbtxt, else from the index.
        """
        log_length = len(self._read_log())
        try:
            self._client.load(model)
        except CheckFailedError as refusal:
            prefixes = (f"model {model} ", f"model {model}: ")
            reasons = [
                line.removeprefix(prefixes[0]).removeprefix(prefixes[1])
                for line in load_failures(self._read_log()[log_length:])
                if line.startswith(prefixes)
            ]
            failed = [row for row in self.index() if row.name == model and row.has_failed]
            listed = [f"version {row.version}: {row.reason.splitlines()[0]}" for row in failed]
            return "; ".join(reasons or listed) or str(refusal)
        return ""

    def _read_log(self) -> str:
        if self._server is None:
            return ""
        runtime_of(self._server).save_log(self._server)
        return self._server.log.read_text(errors="replace") if self._server.log.is_file() else ""


def _ready_versions(index: Sequence[VersionState], model: str) -> tuple[str, ...]:
    return tuple(row.version for row in index if row.name == model and row.is_ready)
