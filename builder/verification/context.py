"""The verification context of one source: reference, golden sample and limits for all its artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.interface import describe_difference, interface_of
from builder.onnx.interface import onnx_interface
from builder.sources.base import Source, TrainedReference
from builder.sources.images import builtin_golden, golden_from_images
from builder.verification.diagnosis import with_causes
from builder.verification.spec_check import compare_specs, spec_problems
from builder.verification.verifier import verify_runner
from tritonkit.comparison import Limits
from tritonkit.errors import ArtifactError, Problem
from tritonkit.golden import Golden
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import Network
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import OPENVINO, Precision, format_of
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.system.cpu import adds_int8_exactly
from tritonkit.tasks import task_of


@dataclass(frozen=True)
class VerificationContext:
    """The reference, golden sample and limits that artifacts are verified with."""

    reference: Runner
    golden: Golden
    max_batch: int
    network: Network | None = None
    """The torch network, if there is one; known faults are applied to it to explain a failed verdict."""
    training: TrainedReference | None = None
    limits: Mapping[Precision, Limits] = field(default_factory=lambda: LIMITS)
    preferred: tuple[int, ...] = ()
    """Batch sizes that the server will use, in addition to powers of two."""

    @property
    def spec(self) -> ModelSpec:
        """The spec of the reference."""
        return self.reference.spec

    def verify(self, candidate: Runner, precision: Precision, graph: Path | None, causes: bool = True) -> Verdict:
        """Verify the runner of an artifact: its outputs, its interface and its spec.

        graph: the ONNX file that the artifact is, or was made from; None where the artifact is more than a graph.
        causes: explain a failure where possible.
        """
        verdict = self.verify_answers(candidate, precision)
        if graph is None:
            problems = (*compare_specs(candidate.spec, self.spec), *verdict.problems)
            return verdict.model_copy(update={"problems": problems, "passed": not problems})
        if causes and self.network is not None:
            verdict = with_causes(verdict, self.network, candidate, self.golden, graph)
        try:
            found = describe_difference(onnx_interface(graph), interface_of(self.spec), "expected")
            interface = [Problem("verdict.interface", f"the graph {found}")] if found else []
        except ArtifactError as error:
            interface = [Problem("verdict.interface", str(error))]
        problems = (*interface, *spec_problems(graph, self.spec), *verdict.problems)
        return verdict.model_copy(update={"problems": problems, "passed": not problems})

    def verify_answers(self, candidate: Runner, precision: Precision) -> Verdict:
        """Verify by outputs alone, where there is no ONNX graph to inspect."""
        golden, limits = self.golden, self.limits[precision]
        verdict = verify_runner(
            self.reference, candidate, golden, self.max_batch, precision, self.training, limits, self.preferred
        )
        if precision != "int8":
            return verdict
        runner = candidate.runner if isinstance(candidate, CachingRunner) else candidate
        # OpenVINO always runs with its CPU plugin.
        is_gpu = runner.is_on_gpu if isinstance(runner, OnnxRuntimeRunner) else format_of(runner.origin) is not OPENVINO
        return verdict if is_gpu else verdict.model_copy(update={"exact_int8": adds_int8_exactly()})


def verification_context(
    source: Source,
    golden: Golden,
    max_batch: int,
    limits: Mapping[Precision, Limits] | None = None,
    preferred: Collection[int] = (),
) -> VerificationContext:
    """Create the verification context of a source.

    limits: replaces the default limits. preferred: batch sizes that the server will use.
    """
    reference, task = CachingRunner(source.reference), task_of(source.spec)
    own = {
        precision: each.model_copy(update={"quality": task.quality_limit(each.quality)})
        for precision, each in (limits or LIMITS).items()
    }
    return VerificationContext(reference, golden, max_batch, source.network, source.training, own, tuple(preferred))


class CachingRunner(Runner):
    """A runner that computes each batch once and returns the cached outputs for the same batch again."""

    def __init__(self, runner: Runner) -> None:
        self.spec, self.origin, self.max_batch = runner.spec, runner.origin, runner.max_batch
        self.runner = runner
        self._is_closed = False
        self._answers: dict[bytes, Outputs] = {}

    def _infer(self, batch: ImageArray) -> Outputs:
        key = hashlib.blake2b(batch.tobytes() + str(batch.shape).encode()).digest()
        if key not in self._answers:
            if self._is_closed:
                raise ArtifactError(
                    f"{self.origin}: is closed, after another attempt was begun", code="artifact.closed"
                )
            self._answers[key] = self.runner.infer(batch)
        return self._answers[key]

    def close(self) -> None:
        """Close the wrapped runner; the cached outputs remain, and any other batch raises ArtifactError."""
        self._is_closed = True
        self.runner.close()


DEFAULT_MAX_BATCH = 32


def select_golden(spec: ModelSpec, own: Golden | None, images: Path | str | None) -> Golden:
    """The images of a verdict: those of the folder `images`, else the checkpoint's, else the builder's photographs."""
    if images is not None:
        return golden_from_images(images, spec.preprocess)
    if own is None:
        return builtin_golden(spec.preprocess)
    return own.without(own.outputs.keys() - {output.name for output in spec.outputs})  # of heads that are dropped
