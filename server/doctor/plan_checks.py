"""Checks whether TensorRT plans fit the serving image and the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from server.doctor.models_to_load import ModelToLoad
from server.doctor.reexport_command import reexport_command
from server.doctor.target_environment import TargetEnvironment
from tritonkit.errors import TritonkitError
from tritonkit.repository.compatibility import PlanProblem, header_problems, plan_problems, stale_problems
from tritonkit.repository.finding import Finding
from tritonkit.repository.manifest import Manifest
from tritonkit.runtimes.formats import TRT
from tritonkit.triton.backends import backend_files


def check_plans(model: ModelToLoad, target: TargetEnvironment) -> Iterator[Finding]:
    """Check each plan by its build record, or by its header. The fix of an error ends with a command."""
    if model.backend != TRT.backend or target.image is None:
        return
    gpu = target.machine.gpu
    capability = gpu.compute_capability if gpu else None
    for version in model.versions:
        for name in _plan_names(model, capability):
            for problem in _plan_problems(version / name, target, capability):
                command = reexport_command(version, target.repository, target.image)
                fix = problem.fix if problem.severity == "warning" else f"{problem.fix}; the command: {command}"
                yield Finding(
                    severity=problem.severity,
                    code=problem.code,
                    path=str(version / name),
                    message=problem.message,
                    fix=fix,
                )


def _plan_names(model: ModelToLoad, capability: str | None) -> list[str]:
    """Return the plan for this GPU, if the configuration has one for each compute capability."""
    plans = backend_files(model.config).plans
    return [plans[capability]] if capability and capability in plans else model.files


def _plan_problems(plan: Path, target: TargetEnvironment, capability: str | None) -> list[PlanProblem]:
    image, version_compatible = target.image, target.options.version_compatible
    if image is None or not plan.is_file():
        return []  # reported by model_checks
    manifest = Manifest.find(plan.parent)
    if manifest is not None and manifest.build is not None:
        return [*plan_problems(manifest, image, capability, version_compatible), *stale_problems(manifest)]
    try:
        return header_problems(plan, image, version_compatible)
    except TritonkitError as reason:
        message = str(reason).removeprefix(f"{plan}: ")
        return [PlanProblem("error", message, "copy it again, or export it again", code=reason.code)]
