"""Whether the plans that would be loaded fit the image that serves them, and the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model.compatibility import PlanProblem, header_problems, plan_problems, stale_problems
from model.errors import TritonkitError
from model.finding import Finding
from model.triton_backends import loading_of
from server.doctor.again import export_command
from server.doctor.place import TargetEnvironment
from server.doctor.served import Served, manifest_in


def check_plans(model: Served, place: TargetEnvironment) -> Iterator[Finding]:
    """By the record of each plan's build, else by its first bytes. The fix of an error ends with a command."""
    if model.backend != "tensorrt" or place.image is None:
        return
    gpu = place.machine.gpu
    capability = gpu.compute_capability if gpu else None
    for version in model.versions:
        for name in _fitting(model, capability):
            for problem in _problems(version / name, place, capability):
                command = export_command(version, place.repository, place.image)
                fix = problem.fix if problem.severity == "warning" else f"{problem.fix}; the command: {command}"
                yield Finding(
                    severity=problem.severity,
                    code=problem.code,
                    path=str(version / name),
                    message=problem.message,
                    fix=fix,
                )


def _fitting(model: Served, capability: str | None) -> list[str]:
    """The files for this GPU, where the configuration has one for each."""
    plans = loading_of(model.config).plans
    return [plans[capability]] if capability and capability in plans else model.files


def _problems(plan: Path, place: TargetEnvironment, capability: str | None) -> list[PlanProblem]:
    image, told = place.image, place.options.version_compatible
    if image is None or not plan.is_file():
        return []  # which is told of with the files
    manifest = manifest_in(plan.parent)
    if manifest is not None and manifest.build is not None:
        return [*plan_problems(manifest, image, capability, told), *stale_problems(manifest)]
    try:
        return header_problems(plan, image, told)
    except TritonkitError as reason:
        return [PlanProblem("error", str(reason).removeprefix(f"{plan}: "), "copy it again, or export it again")]
