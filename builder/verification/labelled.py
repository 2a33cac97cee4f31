"""Measure quality on a labelled data set (`--data`), which is larger than the golden sample.

`train test` reads the labels and computes the metrics, for every task: stages share files and commands, not calls.
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

from builder.sources.base import Source
from tritonkit.comparison import Limits
from tritonkit.errors import ExternalError, InputError, Problem
from tritonkit.networks.network import save_network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ONNX, format_named, is_plan
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE, TRUST_VARIABLE
from tritonkit.spec import METADATA_KEY, ModelSpec

_ALLOWED_CHANGES = 3
"""Images of one class that may change beyond the limits: a model has many classes, and some are small."""
_ROUNDING = 2e-6
"""`train test` prints six digits."""
_NOT_MEASURABLE = {"verdict.nan", "verdict.interface", "verdict.batch"}
"""Problems of an artifact whose outputs cannot be measured."""


@dataclass(frozen=True)
class LabelledMetrics:
    """The result of `train test`: metrics in 0..1, higher is better, and what they were measured on."""

    metrics: dict[str, float]
    images: int
    classes: Mapping[str, int]
    """The number of images with each label; keys are `HEAD=LABEL` where there are several heads."""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images, and the reference model whose quality artifacts must keep."""

    reference: Path
    """A checkpoint, or an ONNX file that carries its spec."""
    data: Path
    masks: Path | None = None
    spec: ModelSpec | None = None
    """The reference's spec, for plans, which carry none; None uses the file next to the plan."""

    @cached_property
    def reference_result(self) -> LabelledMetrics:
        """The reference's quality, measured once. Raises what `measure` raises."""
        return measure(self.reference, None, self.data, self.masks)

    def with_quality(self, verdict: Verdict, artifact: Path) -> Verdict:
        """Add the quality of reference and artifact to the verdict; the verdict fails where too much is lost.

        artifact: the file that `train test --from` opens. An artifact without valid outputs is not measured. Where
        the graph is measured in place of a plan, the verdict says so.
        """
        if _NOT_MEASURABLE & {problem.code for problem in verdict.problems}:
            return verdict
        with self._openable_artifact(artifact) as path:
            after = measure(self.reference, path, self.data, self.masks)
        record = format_named(verdict.format)
        data, proven_by = f"{after.images} pictures of {self.data}", verdict.proven_by
        if record.flavour is not None and not is_plan(artifact):
            data += f" (its graph was run in place of {record.file})"
            note = f"on the labelled images its graph was run, not {record.file}"
            proven_by = f"{proven_by}; {note}" if proven_by else note
        measured = {f"checkpoint on {data}": self.reference_result.metrics, f"artifact on {data}": after.metrics}
        problems = (*verdict.problems, *quality_problems(self.reference_result, after, verdict.limits))
        quality = {**verdict.quality, **measured}
        return verdict.model_copy(
            update={"quality": quality, "proven_by": proven_by, "problems": problems, "passed": not problems}
        )

    @contextmanager
    def _openable_artifact(self, artifact: Path) -> Iterator[Path]:
        """Yield a path that `train test` can open: a plan gets its spec, which is published later, next to it."""
        if self.spec is None or not is_plan(artifact) or artifact.with_name(METADATA_KEY).is_file():
            yield artifact
            return
        with tempfile.TemporaryDirectory() as folder:
            for path in (artifact, artifact.with_name(BUILD_FILE)):
                if path.is_file():
                    (Path(folder) / path.name).symlink_to(path.resolve())
            self.spec.write(Path(folder))
            yield Path(folder) / artifact.name


@contextmanager
def labelled_set(source: Source, data: Path, masks: Path | None = None) -> Iterator[LabelledSet]:
    """Yield the labelled images of `data` with the source written to a temporary file as reference.

    Raises InputError where `train` is not installed, before anything is measured.
    """
    train_command()
    with tempfile.TemporaryDirectory() as scratch:
        if source.network is not None:
            # Not the source's own file: it may be a third-party file, or output options may differ from training.
            reference = Path(scratch) / "reference.safetensors"
            save_network(reference, source.network)
        else:
            reference = Path(scratch) / f"reference{ONNX.suffix}"
            source.write_graph(reference)
        yield LabelledSet(reference, data, masks, source.spec)


def measure(reference: Path, artifact: Path | None, data: Path, masks: Path | None = None) -> LabelledMetrics:
    """Measure all metrics of a model on labelled images with `train test`; `artifact` runs in place of the reference.

    Raises InputError for data that does not fit the model and where `train` is not installed, ExternalError where the
    command fails.
    """
    command: list[str | Path] = [train_command(), "test", reference, "--data", data, "--json"]
    command += ["--from", artifact] if artifact is not None else []
    command += ["--masks", masks] if masks is not None else []
    # A file measured here was built here, or has been opened before.
    code, document = _run_json(list(map(str, command)), {TRUST_VARIABLE: "1"})
    if code == 0:
        # Metrics that cannot be measured on these images are null.
        metrics = {name: float(value) for name, value in document["metrics"].items() if value is not None}
        return LabelledMetrics(metrics, document["images"], document["classes"])
    error = document.get("error", {})
    if error.get("type") == "ModuleNotFoundError":
        missing = _missing_message(error["message"].split(" is missing")[0])
        raise InputError(f"--data {data}: {missing}", code="machine.train_missing")
    if code == 2:
        message = error.get("message", f"--data {data}: cannot be used, see above")
        raise InputError(message, code=error.get("code") or "data.invalid")
    if code == 130:
        raise KeyboardInterrupt
    raise ExternalError(
        f"--data {data}: `train test` ended with exit code {code}: {error.get('message', 'see above')}",
        code="data.train_test_failed",
    )


def train_command() -> Path:
    """Find the `train` command of this installation. Raises InputError where there is none."""
    script = Path(sys.executable).with_name("train")
    command = str(script) if script.is_file() else shutil.which("train")
    if command is None:
        raise InputError(f"--data: {_missing_message('the `train` command')}", code="machine.train_missing")
    return Path(command)


def quality_problems(before: LabelledMetrics, after: LabelledMetrics, limits: Limits) -> list[Problem]:
    """The metrics that fell by more than the limit plus a tolerance of one image.

    For a metric of one class the tolerance is the share of decisions that may change, plus a few images.
    """
    problems = []
    for name, value in before.metrics.items():
        metric, slash, label = name.partition("/")
        head, _, kind = metric.rpartition(".")
        if kind == "loss" or kind.endswith("_loss"):
            continue  # lower is better: no built-in task has such a metric, a plug-in task may
        count = before.classes.get(f"{head}={label}" if head else label) if slash else None
        # Without a count the metric is of all images, or counts pixels.
        tolerance = 1 / before.images if count is None else 1 - limits.decisions + _ALLOWED_CHANGES / max(count, 1)
        allowed = limits.quality + tolerance + _ROUNDING
        # A metric that became NaN is lost; one that was NaN before tells nothing.
        measured = after.metrics.get(name, math.nan)
        if not math.isnan(value) and not value - measured <= allowed:
            message = f"{name} falls from {value:.4f} to {measured:.4f} on {after.images} labelled images"
            problems.append(Problem("verdict.quality", f"{message}; the allowed loss is {limits.quality:g}"))
    return problems


def _run_json(command: list[str], environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Run a tritonkit command; return its exit code and JSON output. Its other output is passed through."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 - our own
            command, stdout=output, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        with process:
            ended = False
            for line in process.stderr or ():
                ended = ended or line.startswith("error: ")  # the JSON holds the error too
                if not ended:
                    sys.stderr.write(line)
        output.seek(0)
        text = output.read()
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        document = {}
    return process.returncode, document


def _missing_message(name: str) -> str:
    return (
        f"`train test` measures labelled images, but {name} is missing; install it with: pip install "
        "'tritonkit[train]', or leave --data out"
    )
