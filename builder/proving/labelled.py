"""Quality on labelled pictures, more of them than the golden sample has: what `--data` asks for.

Labels are read and metrics are counted by `train test`, for every task: stages meet in files and commands, not in
calls.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.proving.verdict import Verdict
from builder.sources.base import Source
from builder.targets import FormatName
from model.comparison import Limits
from model.errors import ExternalError, InputError, Problem
from model.network import save_network
from model.plans import BUILD_FILE
from model.runners.tensorrt import TRUST_VARIABLE
from model.spec import METADATA_KEY, ModelSpec

_SEVERAL = 3
"""So many pictures of a class may change beyond the limits: classes are many, and some are small."""
_ROUNDING = 2e-6
"""`train test` tells six digits."""
_CANNOT_ANSWER = {"nan", "interface", "batch"}
"""Problems with which there is nothing to measure."""
_ENGINES: Mapping[FormatName, str] = {"trt": "model.plan", "rtx": "model.rtx"}
"""By format, what only a GPU can be asked."""
_ENGINE_SUFFIXES = {Path(name).suffix for name in _ENGINES.values()}


@dataclass(frozen=True)
class Measured:
    """What `train test` found of a model: its metrics, in 0..1 and the more the better, and on what."""

    metrics: dict[str, float]
    images: int
    classes: Mapping[str, int]
    """How many of the images have each label; as `HEAD=LABEL` where there are several heads."""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled pictures, and the model whose quality artifacts are to keep on them."""

    reference: Path
    """A checkpoint, or an ONNX file that carries its spec."""
    data: Path
    masks: Path | None = None
    spec: ModelSpec | None = None
    """The reference's, which a plan does not carry; None takes what lies beside the plan."""

    @cached_property
    def before(self) -> Measured:
        """The reference's quality, measured once. Raises as `measure` does."""
        return measure(self.reference, None, self.data, self.masks)

    def with_quality(self, verdict: Verdict, artifact: Path) -> Verdict:
        """The verdict with the quality of both on these pictures, failed where too much of it is lost.

        artifact: what `train test --from` opens. One that gives no answers at all is not measured. Where it is the
        graph in place of a plan, the verdict says so.
        """
        if _CANNOT_ANSWER & {problem.code for problem in verdict.problems}:
            return verdict
        with self._opening(artifact) as file:
            after = measure(self.reference, file, self.data, self.masks)
        where, proven_by = f"{after.images} pictures of {self.data}", verdict.proven_by
        if (engine := _ENGINES.get(verdict.format)) is not None and artifact.suffix not in _ENGINE_SUFFIXES:
            where += f" (in place of {engine} its graph was asked)"
            told = f"on the labelled pictures its graph answered, not {engine}"
            proven_by = f"{proven_by}; {told}" if proven_by else told
        measured = {f"checkpoint on {where}": self.before.metrics, f"artifact on {where}": after.metrics}
        problems = (*verdict.problems, *quality_problems(self.before, after, verdict.limits))
        quality = {**verdict.quality, **measured}
        return verdict.model_copy(
            update={"quality": quality, "proven_by": proven_by, "problems": problems, "passed": not problems}
        )

    @contextmanager
    def _opening(self, artifact: Path) -> Iterator[Path]:
        """The artifact as it can be opened by itself: a plan has its spec beside it, which comes at the very end."""
        if self.spec is None or artifact.suffix not in _ENGINE_SUFFIXES or artifact.with_name(METADATA_KEY).is_file():
            yield artifact
            return
        with tempfile.TemporaryDirectory() as folder:
            for path in (artifact, artifact.with_name(BUILD_FILE)):
                if path.is_file():
                    (Path(folder) / path.name).symlink_to(path.resolve())
            (Path(folder) / METADATA_KEY).write_text(self.spec.to_json(), encoding="utf-8")
            yield Path(folder) / artifact.name


@contextmanager
def labelled_set(source: Source, data: Path, masks: Path | None = None) -> Iterator[LabelledSet]:
    """The labelled pictures of `data` with a source as it is asked, whatever kind it is, while the block lasts.

    Raises InputError where the training side is not installed, before anything is measured.
    """
    train_command()
    with tempfile.TemporaryDirectory() as scratch:
        if source.network is not None:
            # Not the source's own file: it may be someone else's, or be asked in other terms than it was trained.
            reference = Path(scratch) / "reference.safetensors"
            save_network(reference, source.network)
        else:
            reference = Path(scratch) / "reference.onnx"
            source.write_graph(reference)
        yield LabelledSet(reference, data, masks, source.spec)


def measure(reference: Path, artifact: Path | None, data: Path, masks: Path | None = None) -> Measured:
    """All metrics of a model on labelled pictures, by `train test`; `artifact` answers in the reference's place.

    Raises InputError for data that does not fit the model and where the training side is not installed, ExternalError
    when the command did not work.
    """
    words: list[str | Path] = [train_command(), "test", reference, "--data", data, "--json"]
    words += ["--from", artifact] if artifact is not None else []
    words += ["--masks", masks] if masks is not None else []
    # A plan that is measured here was built here, or has been opened already.
    trusted = artifact is not None and artifact.suffix in _ENGINE_SUFFIXES
    code, document = _told(list(map(str, words)), {TRUST_VARIABLE: "1"} if trusted else {})
    if code == 0:
        # What cannot be measured on these pictures is null.
        metrics = {name: float(value) for name, value in document["metrics"].items() if value is not None}
        return Measured(metrics, document["images"], document["classes"])
    error = document.get("error", {})
    if error.get("type") == "ModuleNotFoundError":
        raise InputError(f"--data {data}: {_missing(error['message'].split(' is missing')[0])}")
    if code == 2:
        raise InputError(error.get("message", f"--data {data}: cannot be used, see above"))
    if code == 130:
        raise KeyboardInterrupt
    raise ExternalError(f"--data {data}: `train test` ended with {code}: {error.get('message', 'see above')}")


def train_command() -> Path:
    """The `train` command of this installation. Raises InputError without one."""
    beside = Path(sys.executable).with_name("train")
    found = str(beside) if beside.is_file() else shutil.which("train")
    if found is None:
        raise InputError(f"--data: {_missing('the `train` command')}")
    return Path(found)


def quality_problems(before: Measured, after: Measured, limits: Limits) -> list[Problem]:
    """The metrics that fell by more than the limit of quality, and than one picture weighs.

    In a metric of one class as many of its pictures may change as may lose their decision, and a few.
    """
    problems = []
    for name, value in before.metrics.items():
        if _is_loss(name):
            continue
        allowed = limits.quality + _leeway(name, before, limits) + _ROUNDING
        # A figure that has become NaN was not kept; one that always was NaN tells nothing.
        now = after.metrics.get(name, math.nan)
        if not math.isnan(value) and not value - now <= allowed:
            told = f"{name} falls from {value:.4f} to {now:.4f} on {after.images} labelled pictures"
            problems.append(Problem(code="quality", message=f"{told}, a loss of {limits.quality:g} is allowed"))
    return problems


def _leeway(name: str, measured: Measured, limits: Limits) -> float:
    """How far a metric may fall beyond the limit without meaning anything."""
    metric, slash, label = name.partition("/")
    if not slash:
        return 1 / measured.images
    head = metric.rpartition(".")[0]
    count = measured.classes.get(f"{head}={label}" if head else label)
    if count is None:  # pixels are counted, not pictures
        return 1 / measured.images
    return 1 - limits.decisions + _SEVERAL / max(count, 1)


def _is_loss(name: str) -> bool:
    """The kit's own tasks measure nothing of which less is better; a user's may."""
    metric = name.partition("/")[0].rpartition(".")[2]
    return metric == "loss" or metric.endswith("_loss")


def _told(words: list[str], environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Run our own command: its exit code and the document it printed. What else it says is shown as it says it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(  # noqa: S603 - our own
            words, stdout=printed, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        with process:
            ended = False
            for line in process.stderr or ():
                ended = ended or line.startswith("error: ")  # which the document tells too
                if not ended:
                    sys.stderr.write(line)
        printed.seek(0)
        text = printed.read()
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        document = {}
    return process.returncode, document


def _missing(what: str) -> str:
    return f"labelled pictures are measured by `train test`, but {what} is missing; install it with: pip install " + (
        "'tritonkit[train]', or leave --data out"
    )
