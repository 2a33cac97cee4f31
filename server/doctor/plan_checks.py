"""Whether the plans that would be loaded fit the image that serves them, and the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model.compatibility import PlanProblem, header_problems, plan_problems, stale_problems
from model.errors import TritonkitError
from model.finding import Finding
from model.triton_backends import loading_of
from server.doctor.again import reexport_command
from server.doctor.place import TargetEnvironment
from server.doctor.served import ModelToLoad, read_manifest


def check_plans(model: ModelToLoad, target: TargetEnvironment) -> Iterator[Finding]:
    """By the record of each plan's build, else by its first bytes. The fix of an error ends with a command."""
    if model.backend != "tensorrt" or target.image is None:
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
    """The files for this GPU, where the configuration has one for each."""
    plans = loading_of(model.config).plans
    return [plans[capability]] if capability and capability in plans else model.files


def _plan_problems(plan: Path, target: TargetEnvironment, capability: str | None) -> list[PlanProblem]:
    image, version_compatible = target.image, target.options.version_compatible
    if image is None or not plan.is_file():
        return []  # which is told of with the files
    manifest = read_manifest(plan.parent)
    if manifest is not None and manifest.build is not None:
        return [*plan_problems(manifest, image, capability, version_compatible), *stale_problems(manifest)]
    try:
        return header_problems(plan, image, version_compatible)
    except TritonkitError as reason:
        return [PlanProblem("error", str(reason).removeprefix(f"{plan}: "), "copy it again, or export it again")]
