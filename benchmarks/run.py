"""One benchmark: measure the limit, every level of load and the limit again, and make the record.

Several models are measured in turns, level by level, so that a machine that becomes slower is so for all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Self

from benchmarks.environment import read_environment
from benchmarks.limit import limit_of, why_exceeded
from benchmarks.load.arrivals import ClosedLoop, Load
from benchmarks.load.generator import LoadGenerator, ThreadGenerator
from benchmarks.load.gpu_monitor import GpuMonitor
from benchmarks.load.level import LevelMeasurement, Timing, measure_until_interrupted
from benchmarks.load.processes import ProcessGenerator
from benchmarks.records.record import ClientTime, Level, Limit, LimitPoint, LoadSettings, MeasuredModel, Record
from benchmarks.reference import find_reference
from benchmarks.scenarios import PROBE
from benchmarks.server_time import read_counters, served_settings, server_time
from benchmarks.target import BenchmarkPlan, check_outputs, connect, open_requests
from tritonkit.triton.client import Statistics, TritonClient

STILL_RUNNING = "the benchmark is still running, or was killed"
MIN_IDLE_CORES = 0.5
"""Idle cores that a second client process needs."""

OnProgress = Callable[[str, float], None]
"""Called with the current step and the number of finished phases: each level, and both measurements of the limit."""
OnRecords = Callable[[Sequence[Record]], None]
"""Called with the incomplete records after each level, one a model."""


def phases(plans: Sequence[BenchmarkPlan]) -> int:
    """Return the number of phases: each level, and both measurements of the limit."""
    return sum(plan.scenario.most_levels + 2 for plan in plans)


def run(
    plans: Sequence[BenchmarkPlan], on_progress: OnProgress, on_records: OnRecords = lambda records: None
) -> list[Record]:
    """Measure served models in turns; return a record of each, with one run_id.

    Raises InputError for options that do not fit the model, InferenceError if every request fails, KeyboardInterrupt,
    and errors of loading images and artifact. After an error, the last records passed to `on_records` have all that
    was measured.
    """
    run_id, finished, monitor = secrets.token_hex(8), 0, GpuMonitor()

    def report(text: str, fraction: float) -> None:
        on_progress(f"{running.title}{text}" if len(plans) > 1 else text, finished + fraction)

    with ExitStack() as stack:
        benchmarks = [stack.enter_context(ModelBenchmark(plan, run_id, monitor)) for plan in plans]
        if any(benchmark.target.server.connection.address.is_loopback for benchmark in benchmarks):
            stack.enter_context(monitor.running())
        for running in benchmarks:
            running.before = running.reference.measure(running.target, report)
            finished += 1
        waiting = benchmarks
        while waiting:
            for running in waiting:
                if running.measure_next_level(report):
                    finished += 1
                    on_records([benchmark.record(STILL_RUNNING) for benchmark in benchmarks if benchmark.levels])
                    if reason := running.levels[-1].interrupted:
                        raise reason
                else:
                    running.is_finished = True
            # The order is reversed each time: none is always measured first.
            waiting = [benchmark for benchmark in reversed(waiting) if not benchmark.is_finished]
        finished = phases(plans) - len(plans)
        for running in benchmarks:
            running.after = running.reference.measure(running.target, report)
            finished += 1
        return [benchmark.record(None) for benchmark in benchmarks]


class ModelBenchmark:
    """The benchmark of one model: its connection, and what was measured so far."""

    def __init__(self, plan: BenchmarkPlan, run_id: str, gpus: GpuMonitor, client: TritonClient | None = None) -> None:
        """Connect, and check the outputs of the model. Raises InputError, InferenceError, AnswerError.

        client: None makes one with the plan's address.
        """
        self.plan, self._run_id, self._gpus = plan, run_id, gpus
        self._closing = ExitStack()
        with ExitStack() as stack:
            self.target = connect(plan, client=client)
            stack.callback(self.target.server.close)
            self.title = f"{plan.model} v{self.target.version}: "
            self.reference = find_reference(plan, self.target)
            self._environment = read_environment(self.target.server.release())
            self._started = datetime.now(UTC)
            check_outputs(self.target)
            self._subject, self._load = self._describe_model(), self._describe_load()
            requests = self.target.requests
            self._generator: LoadGenerator = ThreadGenerator(requests.runner, requests.batches)
            if plan.processes is not None and plan.processes > 1:
                self._generator = stack.enter_context(ProcessGenerator(partial(open_requests, plan), plan.processes))
            self._closing = stack.pop_all()
        self.before: tuple[LimitPoint, ...] = ()
        self.after: tuple[LimitPoint, ...] = ()
        self.levels: list[LevelMeasurement] = []
        self.is_finished = False
        self._throughput = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def measure_next_level(self, on_progress: OnProgress) -> bool:
        """Measure one level; return False if there is none left. Raises the errors of `measure_until_interrupted`."""
        scenario = self.plan.scenario
        if scenario.p99_bound_ms is not None and not self.levels:
            timing = replace(self.plan.timing, max_windows=3)
            probe = self._measure(PROBE, timing, on_progress)
            if probe.interrupted:
                raise probe.interrupted
            self._throughput = probe.requests_per_s
        load = scenario.next_load(self.levels, self._throughput, self.target.instances)
        if load is None:
            return False
        level = self._measure(load, self.plan.timing, on_progress)
        if self.plan.processes is None and more_processes_help(level, self._environment.cores):
            self._add_processes()
            level = self._measure(load, self.plan.timing, on_progress)
        self.levels.append(level)
        return True

    def record(self, incomplete: str | None) -> Record:
        """Return the record of what was measured so far. incomplete: why levels are missing."""
        limit = limit_of(self.before, self.after, self.reference.threads) if self.before else None
        levels = tuple(self._level(level, limit) for level in self.levels)
        if limit and levels:
            has_cache = "response_cache" in self._subject.settings
            exceeded = why_exceeded(limit, levels, self.target.threads, has_cache)
            limit = limit.model_copy(update={"exceeded": exceeded})
        return Record(
            run_id=self._run_id,
            started_utc=self._started.replace(microsecond=0),
            subject=self._subject,
            load=self._load,
            levels=levels,
            limit=limit,
            limit_missing=self.reference.missing,
            incomplete=incomplete,
            environment=self._environment,
            arguments=self.plan.arguments,
        )

    def _level(self, measured: LevelMeasurement, limit: Limit | None) -> Level:
        load, images_per_s = measured.load, measured.requests_per_s * self.target.batch
        images = round(images_per_s * (measured.end_ns - measured.start_ns) / 1e9)
        server = server_time(self.plan.model, measured.counted)
        latency = measured.from_send or measured.latency
        in_server_us = server.request_us if server else None
        return Level(
            concurrency=load.concurrency if isinstance(load, ClosedLoop) else None,
            rate=measured.rate,
            images_per_s=images_per_s,
            share_of_limit=images_per_s / limit.images_per_s if limit else None,
            **dict(measured.latency),
            from_send=measured.from_send,
            slip=measured.slip,
            sent_per_s=measured.sent_per_s,
            refused=measured.refused,
            remark=measured.remark,
            requests=measured.requests,
            errors=measured.errors,
            first_error=measured.first_error,
            stable=measured.stable,
            windows=measured.windows,
            incomplete=str(measured.interrupted) or "stopped by Ctrl-C" if measured.interrupted else None,
            samples=measured.samples,
            histogram=measured.histogram,
            server=server,
            client=ClientTime(
                cores=measured.client_cores,
                processes=measured.processes,
                is_limit=measured.is_client_limit,
                decode_us=self.target.decode_us,
                network_us=None if in_server_us is None else max(0, latency.mean_ms * 1e3 - in_server_us),
            ),
            gpu=self._gpus.use_between(measured.start_ns, measured.end_ns, images)
            if self.target.server.connection.address.is_loopback
            else None,
        )

    def _measure(self, load: Load, timing: Timing, on_progress: OnProgress) -> LevelMeasurement:
        def on_window(windows: int) -> None:
            on_progress(f"{load}, {windows} windows", min(windows / timing.max_windows, 1))

        on_window(0)
        return measure_until_interrupted(self._generator, load, timing, self._counters, on_window)

    def _counters(self) -> dict[str, Statistics]:
        versions = {self.plan.model: self.plan.version, **dict.fromkeys(self.target.steps, "")}
        return read_counters(self.target.server, versions)

    def _add_processes(self) -> None:
        processes = self._generator.processes * 2
        if isinstance(self._generator, ProcessGenerator):
            self._generator.close()
        generator = ProcessGenerator(partial(open_requests, self.plan), processes)
        self._generator = self._closing.enter_context(generator)

    def _describe_model(self) -> MeasuredModel:
        plan, target = self.plan, self.target
        return MeasuredModel(
            model=plan.model,
            version=target.version,
            url=target.server.url,
            protocol=target.server.protocol,
            backend=target.backend,
            max_batch=target.max_batch,
            input=target.input,
            settings=served_settings(target.server.config(plan.model, plan.version)),
            artifact=str(self.reference.path) if self.reference.path else None,
            artifact_sha256=self.reference.sha256,
        )

    def _describe_load(self) -> LoadSettings:
        scenario, target = self.plan.scenario, self.target
        loads = scenario.planned_loads(target.instances)
        return LoadSettings(
            scenario=scenario.name,
            arrivals=scenario.arrivals,
            trace=str(scenario.trace) if scenario.trace else None,
            trace_sha256=scenario.trace_sha256,
            p99_bound_ms=scenario.p99_bound_ms,
            batch=target.batch,
            images=target.images,
            images_source=target.source,
            generated=target.generated,
            encoded=target.encoded,
            transport=target.transport,
            seed=scenario.seed,
            concurrency=tuple(load.concurrency for load in loads if isinstance(load, ClosedLoop)),
            rates=tuple(load.rate for load in loads if not isinstance(load, ClosedLoop)),
            **asdict(self.plan.timing),
        )


def more_processes_help(level: LevelMeasurement, cores: int) -> bool:
    """Whether the client was the limit of a level, and the machine has idle cores for twice the client processes.

    cores: of the machine.
    """
    return (
        level.is_client_limit
        and level.interrupted is None
        and level.idle_cores >= MIN_IDLE_CORES
        and level.processes * 2 <= cores
    )
