"""The served model while settings are tried on it through Triton's load API; no file of the repository changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from google.protobuf import json_format

from benchmarks.load.arrivals import ClosedLoop, Load, PoissonArrivals
from benchmarks.load.generator import SupportsInfer, ThreadGenerator
from benchmarks.load.level import LevelMeasurement, Timing, measure_level
from benchmarks.server_time import read_counters
from tritonkit.errors import CheckFailedError, ExternalError, InferenceError, InputError
from tritonkit.repository.config_rules import check_config
from tritonkit.repository.tuning.record import Figures, TuningGoal
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.client import BatchTimes, Statistics, TritonClient

TRIAL_MARK = "bench_tune_trial"
"""A parameter of each configuration that is tried: the server still has one if `bench tune` was killed."""
WARM_UP_SHARE = 0.25
"""Warm-up of a level, as a share of its duration."""
_WINDOWS = 3
_MAX_EDGE = 0.02
"""Share of the requests of a closed loop that are in flight at an end of the measurement, for their number to count."""
_POLL_S = 1.0
_UNLOAD_ATTEMPTS = 5


class TrialLevel(NamedTuple):
    """A measured level of the load."""

    figures: Figures
    level: LevelMeasurement
    batches: dict[int, BatchTimes]
    """The executions during the level and its warm-up, by batch size."""


class TrialServer:
    """Loads settings into a server and measures them. Leaving its block loads the original configuration again."""

    def __init__(
        self,
        control: TritonClient,
        original: ModelConfig,
        current: ServingSettings,
        runner: SupportsInfer[Any],
        batches: Sequence[Any],
    ) -> None:
        """Prepare trials.

        control: a client with the admin token. original, current: the loaded configuration, and its settings.
        runner: sends requests. batches: the requests to send.
        """
        self.control, self.original, self._runner, self._batches = control, original, runner, batches
        self.model = str(original.name)
        self._loaded: ServingSettings | None = current
        self.levels: dict[ServingSettings, dict[Load, LevelMeasurement]] = {}
        """The last measurement of each level, by settings."""
        self._has_changed = False

    def load(self, settings: ServingSettings) -> None:
        """Load settings; nothing happens if they are loaded already.

        Raises InputError for settings that Triton would refuse, CheckFailedError with its reason, InferenceError.
        """
        if settings == self._loaded:
            return
        config = settings.applied_to(self.original)
        check_config(config)
        # Triton replaces only instances if nothing else differs; the backend then keeps its old number of threads.
        config.parameters[TRIAL_MARK].string_value = settings.words()
        self._loaded, self._has_changed = None, True
        self.control.load(self.model, _json(config))
        self._loaded = settings

    def restore(self) -> None:
        """Load the original configuration again. Raises InferenceError, CheckFailedError."""
        if self._has_changed:
            self._loaded = None
            self.control.load(self.model, _json(self.original))
            self._has_changed = False

    def measure(self, load: Load, batch: int, seconds: float) -> TrialLevel:
        """Send a load of `batch` images a request for `seconds`, after a short warm-up.

        Raises the error of the requests if all fail, InputError if none ends in time.
        """
        timing = trial_timing(seconds)
        before = self.control.batch_times(self.model)
        level = measure_level(ThreadGenerator(self._runner, self._batches), load, timing, self._counters)
        after = self.control.batch_times(self.model)
        if self._loaded is not None:
            self.levels.setdefault(self._loaded, {})[load] = level
        counted = {}
        for size, times in after.items():
            earlier = before.get(size, BatchTimes())
            counted[size] = BatchTimes(times.executions - earlier.executions, times.total_ns - earlier.total_ns)
        return TrialLevel(figures_of(level, batch), level, counted)

    def _counters(self) -> dict[str, Statistics]:
        return read_counters(self.control, {self.model: ""})

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for a server that crashed and is being restarted. Raises InferenceError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._loaded = None
        while True:
            try:
                if self.control.is_ready() and any(row.name == self.model for row in self.control.models()):
                    return
            except InferenceError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise ExternalError(
                    f"{self.control.url}: did not come back within {timeout_s:.0f} s", code="benchmark.server_lost"
                )
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def trial_timing(seconds: float) -> Timing:
    """Return the windows and the warm-up of a level of `seconds`."""
    return Timing(seconds / _WINDOWS, _WINDOWS, warm_up_s=seconds * WARM_UP_SHARE)


def load_of(goal: TuningGoal, level: float) -> Load:
    """Return the load of a level."""
    return ClosedLoop(int(level)) if goal.load == "concurrency" else PoissonArrivals(level)


def loads_of(goal: TuningGoal) -> list[Load]:
    """Return the loads of all levels."""
    return [load_of(goal, level) for level in goal.levels]


def figures_of(level: LevelMeasurement, batch: int) -> Figures:
    """Return the figures of a short level; where few requests end in a closed loop, its throughput by Little's law.

    Whole batches end just inside or just outside of the measurement, so that their number varies more than the latency.
    batch: images of a request.
    """
    load, requests_per_s = level.load, level.requests_per_s
    refused = level.refused or level.remark  # a queue that grows has no p99
    if isinstance(load, ClosedLoop):
        if level.requests < load.concurrency:  # the slowest of them are not among those that ended
            refused = "fewer requests ended than were in flight; a longer search (--minutes) measures each load longer"
        if not level.errors and load.concurrency > _MAX_EDGE * level.requests:
            requests_per_s = load.concurrency / (level.latency.mean_ms / 1e3)
    return Figures(
        level=load.concurrency if isinstance(load, ClosedLoop) else load.rate,
        images_per_s=requests_per_s * batch,
        p50_ms=level.latency.p50_ms,
        p99_ms=level.latency.p99_ms,
        errors=level.errors,
        refused=refused,
    )


def restore_after_kill(control: TritonClient, model: str) -> bool:
    """Load the repository's configuration again if a killed `bench tune` left a trial configuration.

    Returns whether it did.

    Unloading is the only way to make Triton forget a configuration of the load API while the files are unchanged.
    """
    if TRIAL_MARK not in control.config(model).get("parameters", {}):
        return False
    control.unload(model)
    for _ in range(_UNLOAD_ATTEMPTS):  # it may still be unloading
        with suppress(CheckFailedError):
            control.load(model)
            return True
        time.sleep(_POLL_S)
    control.load(model)
    return True


def config_from_json(document: dict[str, Any]) -> ModelConfig:
    """Parse a configuration that Triton returned as JSON. Raises InputError."""
    from tritonclient.grpc import model_config_pb2

    try:
        return json_format.ParseDict(document, model_config_pb2.ModelConfig(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise InputError(
            f"{document.get('name')}: its configuration cannot be read ({error})", code="benchmark.config_from_json"
        ) from error


def _json(config: ModelConfig) -> str:
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))
