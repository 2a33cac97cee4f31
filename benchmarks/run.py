"""One benchmark: measure the limit, every level of load and the limit again, and make the record.

Several models are measured in turns, so that a machine that becomes slower is so for all of them: closed loops second
by second, open loops level by level, because their queues build up.
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
from benchmarks.load.level import LevelMeasurement, RunningLevel, Timing, measure_in_turns
from benchmarks.load.processes import ProcessGenerator
from benchmarks.records.record import ClientTime, GpuUse, Level, Limit, LimitPoint, LoadSettings, MeasuredModel, Record
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
OnModelProgress = Callable[["ModelBenchmark", str, float], None]
"""Called with a benchmark, its current step and the finished fraction of its phase."""
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

    def report(benchmark: ModelBenchmark, text: str, fraction: float) -> None:
        on_progress(f"{benchmark.title}{text}" if len(plans) > 1 else text, finished + fraction)

    with ExitStack() as stack:
        benchmarks = [stack.enter_context(ModelBenchmark(plan, run_id, monitor, report=report)) for plan in plans]
        if any(benchmark.target.server.connection.address.is_loopback for benchmark in benchmarks):
            stack.enter_context(monitor.running())
        for running in benchmarks:
            running.before = running.measure_limit()
            finished += 1
        for running in benchmarks:
            running.measure_probe()
        order = list(benchmarks)
        while levels := [(running, load) for running in order if (load := running.next_load()) is not None]:
            in_turns = len(levels) > 1 and all(isinstance(load, ClosedLoop) for _, load in levels)
            for group in [levels] if in_turns else [[level] for level in levels]:
                measure_group(group)
                finished += len(group)
                on_records([benchmark.record(STILL_RUNNING) for benchmark in benchmarks if benchmark.levels])
                if reason := group[0][0].levels[-1].interrupted:
                    raise reason
            order.reverse()  # none is always measured first
        finished = phases(plans) - len(plans)
        for running in benchmarks:
            running.after = running.measure_limit()
            finished += 1
        return [benchmark.record(None) for benchmark in benchmarks]


def measure_group(group: Sequence[tuple[ModelBenchmark, Load]]) -> None:
    """Measure a level of one model, or of several in turns; once more where a client needs more processes."""
    benchmarks, levels = [benchmark for benchmark, _ in group], _measure(group)
    if any(benchmark.lacks_processes(level) for benchmark, level in zip(benchmarks, levels, strict=True)):
        for benchmark in benchmarks:  # all, so that they are compared with the same client
            benchmark.add_processes()
        levels = _measure(group)
    for benchmark, level in zip(benchmarks, levels, strict=True):
        benchmark.levels.append(level)


def _measure(group: Sequence[tuple[ModelBenchmark, Load]]) -> list[LevelMeasurement]:
    levels = [benchmark.running_level(load, benchmark.plan.timing) for benchmark, load in group]
    return measure_in_turns(levels) if len(levels) > 1 else [levels[0].measure()]


class ModelBenchmark:
    """The benchmark of one model: its connection, and what was measured so far."""

    def __init__(
        self,
        plan: BenchmarkPlan,
        run_id: str,
        gpus: GpuMonitor,
        client: TritonClient | None = None,
        report: OnModelProgress = lambda benchmark, text, fraction: None,
    ) -> None:
        """Connect, and check the outputs of the model. Raises InputError, InferenceError, AnswerError.

        client: None makes one with the plan's address.
        """
        self.plan, self._run_id, self._gpus, self._report = plan, run_id, gpus, report
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
        self._throughput = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def measure_limit(self) -> tuple[LimitPoint, ...]:
        """Measure the limit. Raises errors of opening and running the artifact."""
        return self.reference.measure(self.target, partial(self._report, self))

    def measure_probe(self) -> None:
        """Measure the throughput that the scenario Server begins with. Raises the reason of an interruption."""
        if self.plan.scenario.p99_bound_ms is not None:
            probe = self.running_level(PROBE, replace(self.plan.timing, max_windows=3)).measure()
            if probe.interrupted:
                raise probe.interrupted
            self._throughput = probe.requests_per_s

    def next_load(self) -> Load | None:
        """Return the load of the next level; None if there is none left."""
        return self.plan.scenario.next_load(self.levels, self._throughput, self.target.instances)

    def running_level(self, load: Load, timing: Timing) -> RunningLevel:
        """Return a level that is ready to be measured."""

        def on_window(windows: int) -> None:
            self._report(self, f"{load}, {windows} windows", min(windows / timing.max_windows, 1))

        on_window(0)
        return RunningLevel(self._generator, load, timing, self._counters, on_window)

    def lacks_processes(self, level: LevelMeasurement) -> bool:
        """Whether more client processes would help, and their number is not set."""
        return self.plan.processes is None and more_processes_help(level, self._environment.cores)

    def add_processes(self) -> None:
        """Use twice the client processes."""
        processes = self._generator.processes * 2
        if isinstance(self._generator, ProcessGenerator):
            self._generator.close()
        generator = ProcessGenerator(partial(open_requests, self.plan), processes)
        self._generator = self._closing.enter_context(generator)

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
        images = round(images_per_s * measured.counted_s)
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
            in_turns=measured.in_turns,
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
            gpu=self._gpu_use(measured, images),
        )

    def _gpu_use(self, measured: LevelMeasurement, images: int) -> GpuUse | None:
        """The use of the GPUs, which a driver averages over longer than a turn."""
        if measured.in_turns or not self.target.server.connection.address.is_loopback:
            return None
        return self._gpus.use_between(measured.counted_ns[0][0], measured.counted_ns[-1][1], images)

    def _counters(self) -> dict[str, Statistics]:
        versions = {self.plan.model: self.plan.version, **dict.fromkeys(self.target.steps, "")}
        return read_counters(self.target.server, versions)

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
