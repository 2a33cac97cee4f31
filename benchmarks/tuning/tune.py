"""`bench tune` as a function: prepare the search, run it, and choose the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import read_environment, usable_cores
from benchmarks.load.arrivals import Load
from benchmarks.load.level import LevelMeasurement
from benchmarks.tuning.confirmation import is_better, summarize
from benchmarks.tuning.job import TuningJob, job_file, open_job
from benchmarks.tuning.prediction import best_level, merge_trials, value_of
from benchmarks.tuning.search import Budget, OnShare, Search
from benchmarks.tuning.served import TrialServer, loads_of, restore_after_kill
from benchmarks.tuning.subject import TuningPlan, TuningSubject, control_client, open_subject, space_of
from benchmarks.tuning.tuned_records import TunedRecords, path_before
from benchmarks.tuning.winner import changed_models, difference, new_configs, text_difference, undo, write_winner
from tritonkit.errors import CheckFailedError, InputError, TritonkitError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningRecord, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.spec import Frozen
from tritonkit.system.console import duration, warn
from tritonkit.system.local_servers import recorded_server_at
from tritonkit.triton.connection import recorded_tokens
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text


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
    records_missing: str | None = None
    """Why there are no records of a change."""


def tune(plan: TuningPlan, report: OnShare) -> TuningResult:
    """Search the best settings of a served model, and write them into its repository.

    Raises InputError for a model or options that cannot be tuned, CheckFailedError if no setting keeps the bound,
    InferenceError if the server is lost. The server has its original configuration again, except after a change.
    """
    with ExitStack() as stack:
        subject = open_subject(plan, stack)
        cores = plan.cores or usable_cores()
        space = plan.space or space_of(subject.completed, subject.largest, plan.goal.batch, cores)
        search_key = {
            "goal": plan.goal.model_dump(mode="json"),
            "config": hashlib.sha256(config_to_text(subject.original).encode()).hexdigest(),
            "version": subject.target.version,
            "space": repr(space),
            "requests": f"{plan.images} {plan.shapes}",
        }
        job = stack.enter_context(open_job(job_file(f"{plan.url}/{plan.model}", search_key), space, plan.goal))
        budget = Budget(plan.minutes * 60, job.spent_s)
        if job.spent_s:
            warn(f"continues a search that measured for {duration(job.spent_s)}: {len(job.trials())} trials")
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
    with control_client(url) as control:
        address, is_restored = control.connection.address, restore_after_kill(control, model)
        if not address.is_loopback:
            if is_restored:
                return None
            raise InputError(
                f"{address.host} is another machine; run `bench tune {model} --undo` there, where the repository is",
                code="benchmark.undo_remote",
            )
        local = recorded_server_at(address.port)
        folder = repository or (local.repository if local is not None else Path("model_repository"))
        if is_restored and TuningRecord.find(folder / model) is None:
            return None
        record = undo(folder, model)
        for name in changed_models(record.previous):
            control.load(name)
    return record


def _choose(plan: TuningPlan, job: TuningJob, predicted: int) -> TuningResult:
    """Choose the best measured settings. Raises CheckFailedError if none keeps the bound."""
    goal, trials, rounds, current = plan.goal, merge_trials(job.trials(), plan.goal), job.rounds(), job.current
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
    is_compared, not_written = len(rounds) >= 2, None
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
        ((trial, row) for trial in measured for row in trial.levels),
        key=lambda pair: (not pair[1].is_sound, pair[1].p99_ms),
    )
    ratio = figures.p99_ms / plan.goal.p99_ms
    advice = (
        f"A bound of {figures.p99_ms * 1.1:.3g} ms could be kept, or the model must become {ratio:.2f} times as fast: "
        "a smaller precision, another format, fewer pixels, more cores"
    )
    if not figures.is_sound:
        advice = f"That figure does not count: {figures.refused or f'{figures.errors} requests failed'}"
    return CheckFailedError(
        f"{plan.model}: no measured settings keep p99 within {plan.goal.p99_ms:g} ms. The nearest: "
        f"{nearest.settings.words()}, with p99 {figures.p99_ms:.1f} ms at {plan.goal.load} {figures.level:g} "
        f"({figures.images_per_s:.1f} images/s). {advice}",
        {"nearest": nearest.model_dump(mode="json"), "trials": [trial.model_dump(mode="json") for trial in trials]},
        code="benchmark.bound_not_kept",
    )


def _apply(
    plan: TuningPlan,
    subject: TuningSubject,
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
    records = TunedRecords(subject.plan, loads_of(plan.goal), recorded_tokens(plan.url))
    output, records_missing = plan.output, None
    if output is not None and not {result.winner, result.current.settings} <= levels.keys():
        output, records_missing = None, "an earlier run of the search measured these settings"
    if output is not None:
        try:
            records.write(path_before(output), levels[result.current.settings])
        except TritonkitError as error:  # the winner counts more
            output, records_missing = None, str(error)
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
    return result.model_copy(
        update={"written": written, "difference": shown, "records": paths, "records_missing": records_missing}
    )


def _remote_difference(subject: TuningSubject, winner: ServingSettings) -> str:
    before, after = (config_to_text(config) for config in (subject.original, winner.applied_to(subject.original)))
    return text_difference(before, after, f"{subject.original.name}/{CONFIG_FILE}")
