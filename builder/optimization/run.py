"""Optimize a model: build and verify all candidates, measure those that passed as served, and publish the best."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from builder.optimization.candidates import BuiltCandidate, build_candidate, candidate_name
from builder.optimization.choice import LARGEST_NOISE, best_load, choose, figures_text, rate, speed
from builder.optimization.measurement import Measurements, measure
from builder.optimization.page import write_page
from builder.optimization.request import OptimizeRequest
from builder.pipeline import PublishedVersion, publish, with_retention, write_manifest
from builder.plan import Preparation, prepare, source_of
from tritonkit.errors import ArtifactError, CheckFailedError, InputError
from tritonkit.golden import GOLDEN_FILE
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.optimization import Candidate, Optimization
from tritonkit.runtimes.formats import ProgressCallback, Target
from tritonkit.spec import Frozen
from tritonkit.system.commands import check_commands
from tritonkit.system.files import check_can_write
from tritonkit.system.gpu import find_gpu


class OptimizedVersion(Frozen):
    """The version that was published, and why it is the best."""

    published: PublishedVersion
    optimization: Optimization


def optimize(request: OptimizeRequest, report: ProgressCallback = lambda step: None) -> OptimizedVersion:
    """Publish the format and precision that is best as served on this machine, of those whose verdict passed.

    The repository is locked meanwhile. report: called with a sentence when a step starts.

    Raises CheckFailedError, whose document is the Optimization, if no candidate can be chosen; InputError if a command
    that measures is not installed; ExternalError if Triton cannot be started.
    """
    check_can_write(request.html)
    check_commands("server", "bench")
    targets = targets_here(request)
    export = request.export_request()
    source = source_of(export)
    with prepare(export, source, report) as prepared:
        candidates, built = build_candidates(request, prepared, targets)
        optimization = measure_candidates(request, prepared, candidates, built)
        if request.html is not None:
            write_page(request.html, optimization)
        if optimization.chosen is None:
            raise CheckFailedError(
                f"{optimization.model}: {optimization.reason}; nothing was published",
                optimization,
                code="optimize.no_candidate",
            )
        winner = built[optimization.chosen]
        published = publish_candidate(prepared, winner, optimization)
    return OptimizedVersion(published=with_retention(winner.plan, published), optimization=optimization)


def targets_here(request: OptimizeRequest) -> list[Target]:
    """Return the formats and precisions to try on this machine. Raises InputError if it can run none."""
    targets = request.targets(has_gpu=find_gpu() is not None)
    if not targets:
        raise InputError(
            f"--formats {','.join(request.formats)}: none of them runs here; expected one of a CPU such as onnx or "
            "openvino, or an NVIDIA GPU and --runtime docker for TensorRT plans",
            code="optimize.no_format",
        )
    return targets


def build_candidates(
    request: OptimizeRequest, prepared: Preparation, targets: Sequence[Target]
) -> tuple[list[Candidate], dict[str, BuiltCandidate]]:
    """Build and verify formats and precisions; return all candidates, and by name those that passed."""
    prepared.report("exporting to ONNX")
    prepared.source.write_graph(prepared.graph)
    candidates: list[Candidate] = []
    built: dict[str, BuiltCandidate] = {}
    for number, target in enumerate(targets, 1):
        prepared.report(f"building {target}, {number} of {len(targets)}")
        candidate, passed = build_candidate(request, prepared, target, _repository(prepared))
        candidates.append(candidate)
        if passed is not None:
            built[candidate.name] = passed
    return candidates, built


def measure_candidates(
    request: OptimizeRequest,
    prepared: Preparation,
    candidates: Sequence[Candidate],
    built: Mapping[str, BuiltCandidate],
) -> Optimization:
    """Measure the candidates that passed as served, and choose one.

    Raises ExternalError if Triton cannot be started.
    """
    measured = Measurements()
    names = {candidate.name: candidate_name(candidate) for candidate in candidates if candidate.name in built}
    if names:
        with tempfile.TemporaryDirectory(dir=prepared.staged.model.parent) as samples:
            for name, model in names.items():
                # With the images but without the artifact, `bench run` does not measure the limit in process.
                folder = Path(samples, model, built[name].folder.name)
                folder.mkdir(parents=True)
                os.link(built[name].folder / GOLDEN_FILE, folder / GOLDEN_FILE)
            served = list(names.values())
            measured = measure(request, _repository(prepared), Path(samples), served, prepared.report)
    candidates = [_with_figures(candidate, measured, request) for candidate in candidates]
    choice = choose(candidates, request.target, request.p99_ms)
    passed = f"{len(built)} of {len(candidates)} candidates passed their verdict"
    return Optimization(
        model=prepared.source.spec.name,
        target=request.target,
        p99_bound_ms=request.p99_ms,
        candidates=tuple(candidates),
        chosen=choice and choice.candidate.name,
        reason=choice.reason if choice else f"{passed}, and none can be chosen" if built else passed,
        notes=tuple(_doubts(candidates, request)),
        window_s=request.window_s,
        measured=datetime.now(UTC),
        machine=measured.machine,
    )


def _with_figures(candidate: Candidate, measured: Measurements, request: OptimizeRequest) -> Candidate:
    """Add what was measured to a candidate, and why it cannot be chosen."""
    name = candidate_name(candidate)
    if name in measured.failures:
        return candidate.model_copy(update={"excluded": measured.failures[name], "loads": measured.loads(name)})
    candidate = candidate.model_copy(update={"loads": measured.loads(name)})
    if candidate.loads and best_load(candidate, request.target, request.p99_ms) is None:
        best = min(candidate.loads, key=lambda load: load.p99_ms)
        excluded = f"exceeds the bound of {request.p99_ms:g} ms: {figures_text(best)}"
        return candidate.model_copy(update={"excluded": excluded})
    return candidate


def _doubts(candidates: Sequence[Candidate], request: OptimizeRequest) -> Iterator[str]:
    """Yield a sentence for each candidate whose rounds differ much: the machine was busy."""
    for candidate, load in rate(candidates, request.target, request.p99_ms):
        speeds = [speed(one, request.target) for one in load.rounds]
        if min(speeds) < (1 - 2 * LARGEST_NOISE) * max(speeds):
            yield (
                f"{candidate.name}: the rounds differ by {1 - min(speeds) / max(speeds):.0%}; measure again on a "
                "machine with nothing else to do, or with more --rounds"
            )


def publish_candidate(prepared: Preparation, winner: BuiltCandidate, optimization: Optimization) -> PublishedVersion:
    """Move the version that was verified and measured into the folder that is published.

    Raises ArtifactError if a file has changed since the verdict.
    """
    staged = prepared.staged
    before = Manifest.read(winner.folder)
    winner.folder.rename(staged.version_folder)
    optimization.write(staged.version_folder)
    write_manifest(winner.plan, staged.version_folder)
    after = Manifest.read(staged.version_folder)
    if before is None or after is None or any(after.files.get(name) != entry for name, entry in before.files.items()):
        raise ArtifactError(
            f"{optimization.model}: its files changed while they were measured; nothing was published",
            code="optimize.changed",
        )
    verified = winner.verified
    return publish(winner.plan, replace(verified, job=replace(verified.job, folder=staged.version_folder)))


def _repository(prepared: Preparation) -> Path:
    """The repository of the candidates, which is deleted with the staging folder."""
    return prepared.staged.model.with_name("candidates")
