"""Sends a run folder to MLflow: `sync` sends only what MLflow lacks.

Loads without torch, and imports mlflow only to send. MLflow reads its server and credentials from the environment.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import json
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config.sections import MlflowTracker
from train.engine.run_folder import RunFolder
from train.engine.tracking.record import MlflowRecord
from train.tracking import require_mlflow, server_name
from tritonkit.checkpoint import read_spec
from tritonkit.errors import ConfigError, ExternalError, TritonkitError, first_line
from tritonkit.remotes.addresses import public_name, public_text
from tritonkit.spec import Frozen
from tritonkit.system.files import file_sha256

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

RUN_TAG = "tritonkit.run"
_LONGEST_PARAMETER, _LONGEST_TAG = 6000, 5000
_LONGEST_NAME = 240  # of MLflow's 250, so that `best_` and `resumed.` fit in front
_LOCAL_FOLDERS = ("lightning", "tensorboard")
_CREDENTIAL_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_S3_CREDENTIAL_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "InvalidToken")
_LIBRARIES = (
    *("mlflow", "boto3", "botocore", "requests", "urllib3", "s3transfer", "google", "azure"),
    *("sqlalchemy", "alembic"),  # they wrap the errors of a database's driver
)
_NETWORK_ERRORS = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)

Step = Callable[[], None]
"""Sends one thing."""
Track = Callable[[Sequence[Step]], Iterable[Step]]


class SyncResult(Frozen):
    """A run in MLflow, and what was sent to it."""

    run_id: str
    experiment: str
    url: str | None
    """The page of the run; None if MLflow is not a web server."""
    sent: int
    """Number of groups of parameters, tags or metrics, and of files."""


@dataclass(frozen=True)
class _Session:
    client: MlflowClient
    run: RunFolder
    record: MlflowRecord


def sync(run: RunFolder, track: Track = iter, verify: bool = True) -> SyncResult:
    """Send what MLflow does not have of a run: parameters, metrics, tags, files, status. Safe to call again.

    track: wraps the steps, to show progress. verify: ask MLflow which files it still has, and send the lost ones again.
    Raises ConfigError for wrong credentials, a missing bucket and a deleted experiment, ExternalError if the server or
    its store cannot be reached.
    """
    config = run.load_config()
    tracker = config.mlflow or MlflowTracker()
    with _locked(run), translate_mlflow_errors():
        from mlflow.tracking import MlflowClient

        session = _Session(MlflowClient(), run, MlflowRecord.read(run.mlflow_record))
        run_name = tracker.run_name or f"{config.name}/{run.path.absolute().name}"
        session, experiment = _with_run(session, tracker.experiment or config.name, run_name)
        if verify:
            stored = set(_stored_files(session.client, str(session.record.run_id)))
            session.record.artifacts = {p: sha for p, sha in session.record.artifacts.items() if p in stored}
        steps = [
            *_parameters(session, flat(config.model_dump(mode="json"))),
            *_metrics(session),
            *_tags(session, tracker.tags),
            *_files(session),
            *_status(session),
        ]
        for step in track(steps):
            step()
            session.record.write(run.mlflow_record)
    page = f"{server_name()}/#/experiments/{experiment.experiment_id}/runs/{session.record.run_id}"
    return SyncResult(
        run_id=str(session.record.run_id),
        experiment=experiment.name,
        url=page if page.startswith("http") else None,
        sent=len(steps),
    )


def connect(experiment: str) -> None:
    """Check that MLflow answers, and that its store of files can be read. Raises as `sync` does."""
    with translate_mlflow_errors():
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.tracking import MlflowClient

        found = _experiment(MlflowClient(), experiment)
        get_artifact_repository(found.artifact_location).list_artifacts("tritonkit")  # an empty folder of the store


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested mapping as text by dotted key; lists as JSON, None as an empty text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | dict):
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
        else:
            found[f"{prefix}{key}"] = "" if value is None else str(value)
    return found


def _experiment(client: MlflowClient, name: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    found, problem = client.get_experiment_by_name(name), "is deleted"
    if found is None:
        try:
            client.create_experiment(name)
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                problem = f"cannot be created ({first_line(error):.200})"
            elif error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it
                raise
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"MLflow at {server_name()}: the experiment {name!r} {problem}; restore it, or set `experiment` of the "
            "tracker to another name",
            code="tracking.experiment",
        )
    return found


def _with_run(session: _Session, experiment_name: str, run_name: str) -> tuple[_Session, Experiment]:
    """Find the run of the record in MLflow, or create it in the experiment of this name; return its experiment too.

    A run that MLflow lost or deleted is sent anew. One that it has stays in its experiment.
    """
    client, run, record = session.client, session.run, session.record
    if record.run_id is not None:
        if (active := _active_run(client, record.run_id)) is not None:
            return session, client.get_experiment(active.info.experiment_id)
        record = MlflowRecord()
    experiment = _experiment(client, experiment_name)
    record.write(run.mlflow_record)  # with the key, before MLflow has it
    found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{record.key}'", max_results=1)
    tags = {
        RUN_TAG: record.key,
        "mlflow.user": _user(),
        "mlflow.source.name": "train fit",
        "mlflow.source.type": "LOCAL",
    }
    started_ms = int(run.data_summary.stat().st_mtime * 1000)
    created = found[0] if found else client.create_run(experiment.experiment_id, started_ms, tags, run_name)
    record.run_id = created.info.run_id
    record.write(run.mlflow_record)
    return _Session(client, run, record), experiment


def _active_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return the run; None if MLflow lost or deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _parameters(session: _Session, values: Mapping[str, str]) -> Iterator[Step]:
    """MLflow never changes a parameter: what changed before a run was resumed becomes a tag `resumed.KEY`."""
    sent = session.record.parameters
    cut = {mlflow_name(key): value[:_LONGEST_PARAMETER] for key, value in values.items()}
    changed = {f"resumed.{name}": value for name, value in cut.items() if sent.get(name, value) != value}
    if new := {name: value for name, value in cut.items() if name not in sent}:
        yield lambda: _log(session, parameters=new)
    yield from _new_tags(session, changed)


def _metrics(session: _Session) -> Iterator[Step]:
    """One request for each epoch, with the time at which the epoch ended; at the end the best epoch's metrics."""
    rows = session.run.epochs()
    fallback = session.run.metrics.stat().st_mtime if rows else 0.0
    for row in rows:
        epoch, time_s = int(row.pop("epoch")), row.pop("time", fallback)
        if epoch > session.record.epoch:
            values = {mlflow_name(key): value for key, value in row.items()}
            yield lambda e=epoch, t=time_s, v=values: _log_epoch(session, v, e, t)  # type: ignore[misc]
    best = session.run.checkpoint("best")
    if best.is_file():
        final = {f"best_{mlflow_name(key)}": value for key, value in read_spec(best).lineage.metrics.items()}
        if final != session.record.metrics:
            yield lambda: _log_final(session, final, len(rows), best.stat().st_mtime)


def _log_epoch(session: _Session, values: Mapping[str, float], epoch: int, time_s: float) -> None:
    _log(session, metrics=values, step=epoch, time_s=time_s)
    session.record.epoch = epoch


def _log_final(session: _Session, values: dict[str, float], epoch: int, time_s: float) -> None:
    _log(session, metrics=values, step=epoch, time_s=time_s)
    session.record.metrics = values


def _tags(session: _Session, configured: Mapping[str, str]) -> Iterator[Step]:
    """The lineage, as far as it is known, and the tags of the configuration."""
    run, best = session.run, session.run.checkpoint("best")
    tags = {"data_fingerprint": run.fingerprint(), "run_folder": str(run.path.absolute())}
    if best.is_file():
        spec = read_spec(best)
        tags |= {"task": spec.task, "architecture": spec.architecture.name, "seed": str(spec.lineage.seed)}
        optional = {
            "git_revision": spec.lineage.git_revision,
            "mlflow.source.git.commit": (spec.lineage.git_revision or "").removesuffix("-dirty"),
            "parent": spec.lineage.parent,
            "warnings": "; ".join(spec.lineage.warnings),
        }
        tags |= {key: value for key, value in optional.items() if value}
    yield from _new_tags(session, {**tags, **configured})


def _new_tags(session: _Session, tags: Mapping[str, str]) -> Iterator[Step]:
    new = {
        mlflow_name(key): value[:_LONGEST_TAG]
        for key, value in tags.items()
        if session.record.tags.get(mlflow_name(key)) != value[:_LONGEST_TAG]
    }
    if new:
        yield lambda: _log(session, tags=new)


def _files(session: _Session) -> Iterator[Step]:
    for name, path in _run_files(session.run).items():
        sha = file_sha256(path)
        if session.record.artifacts.get(name) != sha:
            yield lambda n=name, p=path, s=sha: _send_file(session, n, p, s)  # type: ignore[misc]


def _send_file(session: _Session, name: str, path: Path, sha: str) -> None:
    session.client.log_artifact(str(session.record.run_id), str(path), name.rpartition("/")[0] or None)
    session.record.artifacts[name] = sha


def _run_files(run: RunFolder) -> dict[str, Path]:
    """The files of a run by name, without states, event files, unfinished files, and all checkpoints but the best."""
    best, found = run.checkpoint("best"), {}
    for path in sorted(run.path.rglob("*")):
        parts = path.relative_to(run.path).parts
        is_other_checkpoint = path.name.endswith((".safetensors", ".golden.npz", ".sketch.npz")) and path != best
        is_hidden = any(part.startswith(".") for part in parts) or path == run.mlflow_record
        if path.is_file() and parts[0] not in _LOCAL_FOLDERS and not (is_hidden or is_other_checkpoint):
            found["/".join(parts)] = path
    return found


def _stored_files(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _stored_files(client, run_id, entry.path)
        else:
            yield entry.path


def _status(session: _Session) -> Iterator[Step]:
    best = session.run.checkpoint("best")
    status = "RUNNING" if session.run.is_locked() else "FINISHED" if best.is_file() else "KILLED"
    if status != (session.record.status or "RUNNING"):
        yield lambda: _send_status(session, status, best)


def _send_status(session: _Session, status: str, best: Path) -> None:
    ended_ms = int(best.stat().st_mtime * 1000) if status == "FINISHED" else None
    if status == "RUNNING":
        session.client.update_run(str(session.record.run_id), status)
    else:
        session.client.set_terminated(str(session.record.run_id), status, ended_ms)
    session.record.status = status


def _log(
    session: _Session,
    parameters: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    time_s: float = 0.0,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    time_ms = int(time_s * 1000)
    session.client.log_batch(
        str(session.record.run_id),
        metrics=[Metric(name, value, time_ms, step) for name, value in (metrics or {}).items()],
        params=[Param(name, value) for name, value in (parameters or {}).items()],
        tags=[RunTag(name, value) for name, value in (tags or {}).items()],
    )
    session.record.parameters |= parameters or {}
    session.record.tags |= tags or {}


def mlflow_name(name: str) -> str:
    """Return a name that MLflow accepts for a parameter, metric or tag: `recall@5` becomes `recall_at_5`.

    Where more is replaced, as in the label of `f1/+`, a hash of the name keeps it apart from that of `f1/*`. MLflow
    also refuses what differs from a normal path: empty parts, `.` and `..`.
    """
    metric, slash, label = name.partition("/")
    readable = metric.replace("@", "_at_") + slash + label
    parts = re.sub(r"[^/\w.\- :]", "_", readable).split("/")
    accepted = "/".join(part if part.strip(".") and not part.startswith("..") else "_" for part in parts)
    if accepted == readable and len(accepted) <= _LONGEST_NAME:
        return accepted
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{accepted[: _LONGEST_NAME - 9]}-{digest}"


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Wait for another process that sends this run. Two at a time would send everything twice."""
    with (run.path / ".mlflow.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def translate_mlflow_errors() -> Iterator[None]:
    """Translate errors of MLflow and of the libraries of its stores into one sentence with the next step."""
    require_mlflow()
    try:
        yield
    except TritonkitError:
        raise
    except Exception as error:
        translated = _tritonkit_error(list(_chain(error)))
        if translated is None:
            raise
        raise translated from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tritonkit_error(chain: Sequence[BaseException]) -> TritonkitError | None:
    codes = {str(getattr(each, "error_code", "")) for each in chain}
    s3_codes = {str(getattr(each, "response", {}).get("Error", {}).get("Code")) for each in chain if _is_s3(each)}
    kinds, text = {type(each).__name__ for each in chain}, public_text(first_line(chain[0]))
    server = f"MLflow at {server_name()}"
    if missing := next((each.name for each in chain if isinstance(each, ModuleNotFoundError)), None):
        return ConfigError(
            f"{server}: needs the Python module {missing}; install it with: pip install {missing}",
            code="install.missing_module",
        )
    if "NoSuchBucket" in s3_codes:
        store = os.environ.get("MLFLOW_S3_ENDPOINT_URL", "AWS")
        return ConfigError(
            f"{server}: the bucket of its files does not exist at {public_name(store)}; create it, or correct "
            f"MLFLOW_S3_ENDPOINT_URL ({text:.200})",
            code="tracking.no_bucket",
        )
    if s3_codes & set(_S3_CREDENTIAL_CODES) or "NoCredentialsError" in kinds:
        return ConfigError(
            f"{server}: the store of its files refuses the credentials; check AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY in the environment or in .env ({text:.200})",
            code="tracking.store_credentials",
        )
    if codes & set(_CREDENTIAL_CODES):
        return ConfigError(
            f"{server}: refuses the credentials; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, in the environment or in .env",
            code="tracking.credentials",
        )
    if type(chain[0]).__module__ == "builtins" and isinstance(chain[0], OSError) and not _is_network(chain[0]):
        return ExternalError(
            f"a local file cannot be read or written for MLflow ({text:.300}); check the disk, and try again",
            code="tracking.local_file",
        )
    if any(_is_network(each) for each in chain):
        # A library's text ends with the reason, if it is not too long for that.
        reasons = (each.strerror for each in reversed(chain) if isinstance(each, OSError) and each.strerror)
        reason = next(reasons, f"{text:.300}")
        return ExternalError(f"{server}: cannot be reached, or does not work: {reason}", code="tracking.unreachable")
    return None


def _is_network(error: BaseException) -> bool:
    """Whether the error is one of the network, or of the libraries that use it; a full disk is not."""
    is_of_library = type(error).__module__.split(".")[0] in _LIBRARIES
    kinds = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
    return is_of_library or isinstance(error, kinds) or getattr(error, "errno", None) in _NETWORK_ERRORS


def _is_s3(error: BaseException) -> bool:
    return isinstance(getattr(error, "response", None), dict)
