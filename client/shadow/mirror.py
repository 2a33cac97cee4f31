"""Send live requests to the candidate as well, compare the answers, and stop when the test has decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import Field

from client.shadow.candidate import CandidateVersion
from client.shadow.sequential import Decision, ShareTest
from client.shadow.traces import REPEATED, LiveRequest, LiveTrace
from tritonkit.comparison import valid_answers
from tritonkit.errors import (
    BatchError,
    BusyError,
    DeadlineError,
    InferenceError,
    InputError,
    NotReadyError,
    UnreachableError,
)
from tritonkit.runtimes.base import decode_text, pipeline_error
from tritonkit.spec import Frozen, ModelSpec, Outputs
from tritonkit.tasks import Task, task_of
from tritonkit.triton.client import Statistics, TritonClient

_POLL_S = 0.1
_INPUT_FIELDS = ("input", "preprocess")


class ShadowPlan(Frozen):
    """What `client shadow` mirrors."""

    model: str
    candidate: int
    share: float = Field(default=0.1, gt=0, le=1)
    """Highest share of the live requests."""
    minutes: float = Field(default=10.0, gt=0)
    """Longest time."""
    max_changed: float = Field(default=0.02, gt=0, lt=1)
    """The highest acceptable share of images whose answer changes."""
    repository: Path = Path("model_repository")
    trace_file: Path | None = None
    """The server's trace file as this machine sees it; None: at the server's path."""


class ShadowResult(Frozen):
    """What the mirrored requests showed."""

    model: str
    current: str
    candidate: str
    decision: Decision
    reason: str
    max_changed: float
    requests: int
    """Mirrored requests; one may hold several images."""
    images: int
    changed: int
    low: float
    """Bounds of the share of changed answers: the confidence sequence of 95 %."""
    high: float
    share: float
    """Share of the live requests that Triton traced: one over a whole number, at most the chosen share."""
    skipped: int
    """Sampled requests that were not compared: of other versions, or while the server was busy."""
    seconds: float
    current_ms: float | None
    """Mean time that the model computed for a request during the run, in milliseconds; None without one."""
    candidate_ms: float | None


def shadow(plan: ShadowPlan, server: TritonClient, report: Callable[[str], None], every_s: float = 1.0) -> ShadowResult:
    """Mirror live requests until the test decides or the time is over; the server is then as before.

    server: a client with the admin token. report: called with the progress every `every_s` seconds.
    Raises InputError if the model cannot be mirrored, CheckFailedError if Triton refuses the candidate, InferenceError.
    """
    current = server.version(plan.model)
    spec = server.model(plan.model).spec()
    if spec.pipeline is not None:
        raise pipeline_error(spec, f"{server.url}/{plan.model}")
    candidate = CandidateVersion(folder=plan.repository / plan.model, version=plan.candidate)
    candidate_spec = candidate.spec()
    _check_pair(plan, current, server.versions(plan.model), spec, candidate_spec)
    task, candidate_task = task_of(spec), task_of(candidate_spec)
    comparison = _DecisionComparison(task, candidate_task)
    trace = LiveTrace(server, plan.model, spec, plan.share, plan.trace_file)
    report(f"loading version {plan.candidate} as {candidate.shadow_name}")
    with trace.lock(), candidate.load(server, candidate_spec) as name:
        server.infer(name, "", candidate_spec, np.zeros((1, *spec.input.shape), dtype=np.uint8))  # the first is slow
        mirror = _Mirror(server, plan, current, spec, candidate_spec, name, comparison)
        before = mirror.statistics()
        with trace:
            mirror.run(trace, report, every_s)
        after = mirror.statistics()
    times = [new.since(old).infer_us for old, new in zip(before, after, strict=True)]
    low, high = mirror.test.interval()
    return ShadowResult(
        model=plan.model,
        current=current,
        candidate=str(plan.candidate),
        decision="keep" if mirror.failure else mirror.test.decision,
        reason=mirror.reason(),
        max_changed=plan.max_changed,
        requests=mirror.requests,
        images=mirror.test.total,
        changed=mirror.test.differing,
        low=low,
        high=high,
        share=trace.share,
        skipped=mirror.skipped + trace.unreadable,
        seconds=mirror.seconds,
        current_ms=None if times[0] is None else times[0] / 1e3,
        candidate_ms=None if times[1] is None else times[1] / 1e3,
    )


class _DecisionComparison:
    """Compares the answers of the served version with the candidate's."""

    def __init__(self, task: Task, candidate_task: Task) -> None:
        self.tasks = task, candidate_task
        self.joint = task.joint(candidate_task)

    def count_changed(self, live: Outputs, mirrored: Outputs) -> int:
        """Return the number of images whose decision differs."""
        old, new = (task.relabel(each, self.joint) for task, each in zip(self.tasks, (live, mirrored), strict=True))
        kept = self.joint.decisions_kept(self.joint.agreement(old, new))
        return int((~kept).sum())


class _Mirror:
    """Counts what the mirrored requests show."""

    def __init__(
        self,
        server: TritonClient,
        plan: ShadowPlan,
        current: str,
        spec: ModelSpec,
        candidate_spec: ModelSpec,
        name: str,
        comparison: _DecisionComparison,
    ) -> None:
        self._server, self._plan, self._current, self._name = server, plan, current, name
        self._spec, self._candidate_spec, self._comparison = spec, candidate_spec, comparison
        self.test = ShareTest(plan.max_changed)
        self.failure = ""
        """Why the candidate cannot be promoted, whatever its share."""
        self.requests = self.skipped = 0
        self.seconds = 0.0

    def run(self, trace: LiveTrace, report: Callable[[str], None], every_s: float) -> None:
        """Mirror requests until the test decides, the candidate fails, or the time is over."""
        started = reported = time.monotonic()
        end = started + 60 * self._plan.minutes
        while not self._is_decided() and time.monotonic() < end:
            idle = True
            for request in trace.take():
                idle = False
                self._mirror(request)
                if self._is_decided() or time.monotonic() >= end:
                    break
            if idle:
                trace.renew()
                time.sleep(_POLL_S)
            self.seconds = time.monotonic() - started
            if time.monotonic() - reported >= every_s:
                reported = time.monotonic()
                report(self._progress())

    def _is_decided(self) -> bool:
        return bool(self.failure) or self.test.decision != "undecided"

    def _mirror(self, request: LiveRequest) -> None:
        """Send one live request to the candidate and compare the answers."""
        if request.version != self._current:
            self._check_current()
            self.skipped += 1
            return
        live, candidate = self._comparison.tasks
        expected = request.outputs or self._repeat(request)
        if not expected or not valid_answers(live, expected).all():
            self.skipped += 1
            return
        try:
            answer = self._server.infer(self._name, "", self._candidate_spec, request.images)
        except (BusyError, DeadlineError):
            self.skipped += 1
            return
        except (UnreachableError, NotReadyError):
            raise
        except (BatchError, InferenceError) as error:
            self.failure = f"the candidate failed on a live request: {error}"
            return
        self.requests += 1
        outputs = decode_text(answer.outputs)
        if (problem := candidate.value_problem(outputs)) is not None:
            self.failure = f"the candidate's answer to a live request is invalid: {problem}"
            return
        self.test.add(self._comparison.count_changed(expected, outputs), len(request.images))

    def _repeat(self, request: LiveRequest) -> Outputs:
        """Send a live request to the served version again, because the trace has no outputs; empty if it fails."""
        inputs = {self._spec.input.name: (self._spec.input.dtype, request.images)}
        try:
            return decode_text(self._server.infer_tensors(self._plan.model, self._current, inputs, request_id=REPEATED))
        except (UnreachableError, NotReadyError):
            raise
        except InferenceError:
            return {}

    def _check_current(self) -> None:
        """Check that the server still answers with the version that the candidate is compared with."""
        version = self._server.version(self._plan.model)
        if version != self._current:
            raise InferenceError(
                f"{self._server.url}/{self._plan.model}: version {version} is served now, and it was {self._current} "
                "at the start. Run the command again to compare with the new version",
                code="server.version_changed",
            )

    def statistics(self) -> tuple[Statistics, Statistics]:
        """Return the counters of the served version and of the candidate."""
        served = self._server.statistics(self._plan.model).get((self._plan.model, self._current), Statistics())
        return served, Statistics.total(self._server.statistics(self._name).values())

    def reason(self) -> str:
        """Explain the decision in one sentence."""
        if self.failure:
            return self.failure
        low, high = self.test.interval()
        limit = f"{self._plan.max_changed:.2%}"
        match self.test.decision:
            case "promote":
                return f"at most {high:.3%} of the answers change, below the limit of {limit}"
            case "keep":
                return f"at least {low:.3%} of the answers change, above the limit of {limit}"
        if not self.requests:
            return f"no request to {self._plan.model} came in that could be mirrored"
        return f"{low:.2%} to {high:.2%} of the answers change, and the limit is {limit}; mirror more requests"

    def _progress(self) -> str:
        low, high = self.test.interval()
        return (
            f"{self.requests} requests mirrored, {self.test.differing} of {self.test.total} answers differ "
            f"({low:.2%} to {high:.2%})"
        )


def _check_pair(
    plan: ShadowPlan, current: str, versions: list[str], spec: ModelSpec, candidate_spec: ModelSpec
) -> None:
    """Check that live requests to the served version fit the candidate. Raises InputError."""
    if str(plan.candidate) == current:
        raise InputError(
            f"{plan.model}: version {plan.candidate} is the one that answers requests already (loaded: "
            f"{', '.join(versions)}). Serve the other version with `builder promote {plan.model} VERSION` and "
            f"`server reload {plan.model}`, or choose another --candidate",
            code="shadow.served_already",
        )
    if differing := [name for name in _INPUT_FIELDS if getattr(spec, name) != getattr(candidate_spec, name)]:
        raise InputError(
            f"{plan.model}: version {plan.candidate} differs from version {current} in {', '.join(differing)}, so the "
            "images of live requests are not those that it expects. Compare them on files: client compare "
            f"{plan.model}@{current} {plan.repository / plan.model / str(plan.candidate)}/…",
            code="shadow.input_differs",
        )
