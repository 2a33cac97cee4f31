"""`bench tune` as a function: prepare the search, run it, and choose the result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from benchmarks.environment import read_environment
from benchmarks.load.arrivals import Load
from benchmarks.load.level import LevelMeasurement
from benchmarks.scenarios import Scenario
from benchmarks.target import BenchmarkPlan, BenchmarkTarget, connect
from benchmarks.tuning.confirmation import MIN_ROUNDS, is_better, summarize
from benchmarks.tuning.job import TuningJob, job_file, open_job
from benchmarks.tuning.prediction import best_level, value_of
from benchmarks.tuning.search import Budget, OnProgress, Search, loads_of
from benchmarks.tuning.served import TrialServer, config_from_json, restore_after_kill
from benchmarks.tuning.space import GPU_INSTANCES, SearchSpace, Workers, cpu_workers, powers_of_two
from benchmarks.tuning.tuned_records import TunedRecords, path_before
from benchmarks.tuning.winner import changed_models, difference, new_configs, undo, write_winner
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningRecord, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings, takes_threads
from tritonkit.runtimes.formats import TRT
from tritonkit.spec import Frozen
from tritonkit.system.local_servers import recorded_server_at
from tritonkit.triton.backends import ModelConfig, backend_of
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection, RequestTokens
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config

_LOAD_DEADLINE_S = 120.0
_REQUEST_DEADLINES = 20
"""A request may take this many times the bound."""


@dataclass(frozen=True)
class TuningPlan:
    """The options of `bench tune`."""

    model: str
    url: str
    goal: TuningGoal
    minutes: float
    repository: Path | None = None
    """None: that of the local server."""
    images: Path | None = None
    shapes: dict[str, tuple[int, ...]] | None = None
    cores: int | None = None
    """Cores of the server's machine; None: those of this one."""
    write: bool = True
    space: SearchSpace | None = None
    """The settings to try; None: all that fit the model and the machine."""
    output: Path | None = None
    """The benchmark record of the winner, if one is written; that of the settings before is beside it."""


class TuningResult(Frozen):
    """What a search found."""

    model: str
    goal: TuningGoal
    winner: ServingSettings
    is_changed: bool
    """Whether the winner differs from the current settings."""
    is_finished: bool
    """Whether the best settings were compared with the current ones."""
    current: TuningTrial
    figures: Figures
    """Of the winner: in the last comparison, else in its trial."""
    confirmed: dict[str, Figures]
    """The last comparison, by settings in words."""
    trials: tuple[TuningTrial, ...]
    predicted_settings: int
    seconds: float
    written: str | None = None
    """The file that was changed; None without a change."""
    not_written: str | None = None
    """Why no file was changed."""
    difference: str = ""
    """The change of the configuration, as a unified diff."""
    records: tuple[str, ...] = ()
    """The benchmark records of the settings after and before."""


@dataclass(frozen=True)
class _Subject:
    """The served model that is tuned."""

    control: TritonClient
    plan: BenchmarkPlan
    target: BenchmarkTarget
    original: ModelConfig
    """Of the repository."""
    completed: ModelConfig
    """As the server completed it."""
    repository: Path | None
    """None where no file can be changed."""
    not_local: str | None
    """Why no file can be changed."""
    current: ServingSettings
    largest: int
    """The largest batch that the verdict covers, else that of the configuration."""


def tune(plan: TuningPlan, report: OnProgress) -> TuningResult:
    """Search the best settings of a served model, and write them into its repository.

    Raises InputError for a model or options that cannot be tuned, CheckFailedError if no setting keeps the bound,
    InferenceError if the server is lost. The server has its original configuration again, except after a change.
    """
    with ExitStack() as stack:
        subject = _open_subject(plan, stack)
        cores = plan.cores or _local_cores()
        space = plan.space or space_of(subject.completed, subject.largest, plan.goal.batch, cores)
        question = {
            "goal": plan.goal.model_dump(mode="json"),
            "config": hashlib.sha256(config_to_text(subject.original).encode()).hexdigest(),
            "version": subject.target.version,
            "space": repr(space),
        }
        job = stack.enter_context(open_job(job_file(f"{plan.url}/{plan.model}", question), space, plan.goal))
        budget = Budget(plan.minutes * 60, job.spent_s)
        target = subject.target
        with TrialServer(subject.control, subject.original, subject.current, target.runner, target.batches) as server:
            Search(server, job, space, plan.goal, subject.current, cores, budget, report).run()
        result = _apply(plan, subject, _choose(plan, job, len(space.all())), job, server.levels)
        if result.written or (result.is_finished and not result.is_changed):
            job.delete()
        return result


def undo_tuning(url: str, model: str, repository: Path | None) -> TuningRecord | None:
    """Restore the configuration before the last `bench tune`, and load it; return the record that was undone.

    After a `bench tune` that was killed, only the server is restored; then the result is None.
    Raises InputError if there is nothing to undo or the configuration was changed since, InferenceError.
    """
    with _control_client(url) as control:
        is_restored = restore_after_kill(control, model)
        local = recorded_server_at(control.connection.address.port)
        folder = repository or (local.repository if local is not None else Path("model_repository"))
        if is_restored and TuningRecord.find(folder / model) is None:
            return None
        record = undo(folder, model)
        for name in changed_models(record.previous):
            control.load(name)
    return record


def space_of(config: ModelConfig, largest: int, batch: int, cores: int) -> SearchSpace:
    """Return the settings to try for a model.

    config: as the server completed it. largest: the largest batch that the verdict covers. batch: images of a request.
    """
    (group,) = config.instance_group
    on_gpu, is_plan = group.kind == group.KIND_GPU, backend_of(config) == TRT.backend
    return SearchSpace(
        workers=tuple(Workers(count, None) for count in GPU_INSTANCES)
        if on_gpu
        else cpu_workers(cores, takes_threads(config)),
        max_batch=powers_of_two(largest, batch),
        cuda_graphs=(False, True) if on_gpu and is_plan else (False,),
        profiles=tuple(group.profile) or (None,),
    )


def _open_subject(plan: TuningPlan, stack: ExitStack) -> _Subject:
    control = stack.enter_context(_control_client(plan.url))
    served = control.model(plan.model)
    if served.steps or served.encoded_of:
        owner = served.encoded_of or " or ".join(served.steps)
        raise InputError(
            f"{plan.model}: calls {owner}, whose settings decide about its speed; tune {owner}",
            code="benchmark.tune_ensemble",
        )
    if not served.max_batch:
        raise InputError(
            f"{plan.model}: has no batch axis (max_batch_size: 0), so there is no batching to tune",
            code="benchmark.no_batching",
        )
    if not restore_after_kill(control, plan.model):
        control.load(plan.model)  # if its files changed since it was loaded; also checks the admin token
    completed = config_from_json(control.config(plan.model))
    repository, not_local = _served_repository(plan, control, completed)
    original = read_config(repository / plan.model) if repository is not None else completed
    original.name = plan.model
    deadline_s = max(10.0, _REQUEST_DEADLINES * plan.goal.p99_ms / 1e3)
    load = stack.enter_context(TritonClient(Connection(url=plan.url, deadline_s=deadline_s), tokens=_tokens(plan.url)))
    benchmark = BenchmarkPlan(
        model=plan.model,
        url=plan.url,
        scenario=_scenario(plan.goal),
        batch=plan.goal.batch,
        repository=repository or Path("model_repository"),
        images=plan.images,
        shapes=plan.shapes or {},
    )
    target = connect(benchmark, client=load)
    current = ServingSettings.from_config(completed)
    largest = _verified_batch(repository, plan.model, completed)
    return _Subject(control, benchmark, target, original, completed, repository, not_local, current, largest)


def _scenario(goal: TuningGoal) -> Scenario:
    arrivals: Literal["poisson"] | None = "poisson" if goal.load == "rate" else None
    return Scenario("open" if arrivals else "closed", tuple(loads_of(goal)), arrivals)


def _control_client(url: str) -> TritonClient:
    return TritonClient(Connection(url=url, deadline_s=_LOAD_DEADLINE_S), tokens=_tokens(url))


def _tokens(url: str) -> RequestTokens | None:
    """Return the tokens of a server that `server up` started here; None: those of the environment."""
    address = Connection(url=url).address
    local = recorded_server_at(address.port) if address.is_loopback else None
    return None if local is None else RequestTokens.model_validate(local.tokens)


def _served_repository(
    plan: TuningPlan, control: TritonClient, completed: ModelConfig
) -> tuple[Path | None, str | None]:
    """Return the repository that the server reads, or why its files cannot be changed."""
    address = control.connection.address
    if not address.is_loopback:
        return None, f"{address.host} is another machine"
    local = recorded_server_at(address.port)
    folder = plan.repository or (local.repository if local is not None else Path("model_repository"))
    if not (folder / plan.model / CONFIG_FILE).is_file():
        return None, f"there is no {folder / plan.model / CONFIG_FILE}; name the served repository with --repository"
    config = read_config(folder / plan.model)
    for key in config.parameters:
        if config.parameters[key] != completed.parameters[key]:
            return None, f"{folder / plan.model / CONFIG_FILE} is not the configuration that {control.url} serves"
    return folder, None


def _verified_batch(repository: Path | None, model: str, completed: ModelConfig) -> int:
    if repository is None:
        return int(completed.max_batch_size)
    versions = ModelFolder.read(repository / model).loaded_versions
    verified = [version.verdict.max_batch for version in versions if version.verdict is not None]
    return min(verified) if len(verified) == len(versions) and verified else int(completed.max_batch_size)


def _local_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choose(plan: TuningPlan, job: TuningJob, predicted: int) -> TuningResult:
    """Choose the best measured settings. Raises CheckFailedError if none keeps the bound."""
    goal, trials, rounds, current = plan.goal, job.trials(), job.rounds(), job.current
    if current is None or current.best is None:
        raise InputError(f"{plan.model}: its current settings were not measured", code="benchmark.untunable")
    names = {name for entry in rounds for name in entry}
    confirmed = {name: figures for name in names if (figures := summarize(rounds, name)) is not None}
    figures_of = {trial.settings: trial.best for trial in trials if trial.best is not None}
    if confirmed:  # what was not compared in turns does not count
        figures_of = {settings: confirmed[settings.words()] for settings in figures_of if settings.words() in confirmed}
    kept = {settings: figures for settings, figures in figures_of.items() if best_level([figures], goal)[1]}
    if not kept:
        raise _no_setting_error(plan, trials)
    best = max(kept, key=lambda settings: value_of(kept[settings], goal))
    is_compared, not_written = len(rounds) >= MIN_ROUNDS, None
    if best == current.settings:
        not_written = "no measured settings are better than the current ones"
    elif not is_compared:
        not_written = (
            f"the time ended before {best.words()} was compared with the current settings; the same command with "
            "more --minutes continues"
        )
    elif current.settings in kept and not is_better(rounds, best.words(), current.settings.words(), goal):
        not_written = f"{best.words()} is not better than the current settings beyond noise"
    winner = best if not_written is None else current.settings
    return TuningResult(
        model=plan.model,
        goal=goal,
        winner=winner,
        is_changed=not_written is None,
        is_finished=best == current.settings or is_compared,
        current=current,
        figures=kept.get(winner, figures_of.get(winner, current.best)),
        confirmed=confirmed,
        trials=tuple(trials),
        predicted_settings=predicted,
        seconds=job.spent_s,
        not_written=not_written,
    )


def _no_setting_error(plan: TuningPlan, trials: Sequence[TuningTrial]) -> CheckFailedError:
    measured = [trial for trial in trials if trial.best is not None]
    nearest, figures = min(
        ((trial, row) for trial in measured for row in trial.levels), key=lambda pair: pair[1].p99_ms
    )
    ratio = figures.p99_ms / plan.goal.p99_ms
    return CheckFailedError(
        f"{plan.model}: no measured settings keep p99 within {plan.goal.p99_ms:g} ms. The nearest: "
        f"{nearest.settings.words()}, with p99 {figures.p99_ms:.1f} ms at {plan.goal.load} {figures.level:g} "
        f"({figures.images_per_s:.1f} images/s). A bound of {figures.p99_ms * 1.1:.3g} ms could be kept, or the model "
        f"must become {ratio:.2f} times as fast: a smaller precision, another format, fewer pixels, more cores",
        {"nearest": nearest.model_dump(mode="json"), "trials": [trial.model_dump(mode="json") for trial in trials]},
        code="benchmark.bound_not_kept",
    )


def _apply(
    plan: TuningPlan,
    subject: _Subject,
    result: TuningResult,
    job: TuningJob,
    levels: Mapping[ServingSettings, Mapping[Load, LevelMeasurement]],
) -> TuningResult:
    """Write the winner and load it, or say why not. levels: what this process measured."""
    if not result.is_changed:
        return result
    repository = subject.repository
    if repository is None:
        return result.model_copy(
            update={"not_written": subject.not_local, "difference": _remote_difference(subject, result.winner)}
        )
    configs = new_configs(repository, plan.model, result.winner)
    shown = difference(repository, configs)
    if not plan.write:
        return result.model_copy(update={"not_written": "--dry-run", "difference": shown})
    records = TunedRecords(subject.plan, loads_of(plan.goal))
    output = plan.output if {result.winner, result.current.settings} <= levels.keys() else None
    if output is not None:
        records.write(path_before(output), levels[result.current.settings])
    environment = read_environment(subject.control.release())
    kept = {"cpu", "cores", "memory_gib", "platform", "triton", "load_average"}
    record = TuningRecord(
        created=datetime.now(UTC).replace(microsecond=0),
        goal=plan.goal,
        minutes=plan.minutes,
        winner=result.winner,
        replaced=result.current.settings,
        confirmed={name: tuple(entry[name] for entry in job.rounds() if name in entry) for name in result.confirmed},
        trials=result.trials,
        machine=environment.model_dump(include=kept),
        record=None if output is None else str(output.absolute()),
    )
    write_winner(repository, plan.model, configs, record)
    for name in changed_models(configs):
        subject.control.load(name)
    if output is not None:
        records.write(output, levels[result.winner])
    written = str(repository / plan.model / CONFIG_FILE)
    paths = () if output is None else (str(output), str(path_before(output)))
    return result.model_copy(update={"written": written, "difference": shown, "records": paths})


def _remote_difference(subject: _Subject, winner: ServingSettings) -> str:
    import difflib

    before, after = (config_to_text(config) for config in (subject.original, winner.applied_to(subject.original)))
    return "".join(difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True)))
