"""All findings of a repository at a place."""

from __future__ import annotations

from pathlib import Path

from model.errors import InputError, ServerError
from model.finding import Finding, error, warning
from model.staging import leftovers
from model.triton_config import models_in
from server.docker_runtime import engine_has_gpu
from server.doctor.machine import Machine
from server.doctor.model_checks import check_model
from server.doctor.place import TargetEnvironment, inspect_target
from server.doctor.plan_checks import check_plans
from server.doctor.resource_checks import check_resources
from server.doctor.served import find_models_to_load
from server.exposure import check_exposure, security_warnings
from server.options import Options
from server.ports import check_ports_free


def diagnose(options: Options, machine: Machine, deep: bool = False) -> list[Finding]:
    """What speaks against serving a repository so, errors first: with one, a model does not load or answers wrongly.

    deep: hash large files too. Raises InputError without a repository, or without a model that was named.
    """
    repository = options.repository
    if not repository.is_dir():
        raise InputError(f"{repository}: no model repository here; make one with `builder export`")
    target, findings = inspect_target(options, machine)
    return sorted([*findings, *_repository_findings(target, deep)], key=lambda one: one.severity != "error")


def start_findings(options: Options) -> list[Finding]:
    """What `server up` would refuse anyway: ports, addresses, certificates, Docker; and what is not wise."""
    findings = [warning(options.repository, said, "see docs/security.md") for said in security_warnings(options)]
    try:
        check_exposure(options)
        check_ports_free(options.bind_addresses)
    except (InputError, ServerError) as reason:
        problem, _, fix = str(reason).rpartition("\n")
        findings.append(error(Path(options.host), problem or fix, fix if problem else "give what it asks for"))
    if options.runtime == "docker":
        try:
            engine_has_gpu()
        except (InputError, ServerError) as reason:
            findings.append(error(options.repository, str(reason), "then ask again"))
    return findings


def _repository_findings(target: TargetEnvironment, deep: bool) -> list[Finding]:
    names = target.options.models
    existing = [folder.name for folder in models_in(target.repository)]
    if missing := [name for name in names if name not in existing]:
        missing_text = ", ".join(map(repr, missing))
        raise InputError(f"{target.repository} has no model {missing_text}; it has: {', '.join(existing) or 'none'}")
    models, findings = find_models_to_load(target.repository, names)
    for one in models:
        findings += [*check_model(one, target, deep), *check_plans(one, target)]
    findings += check_resources(models, target)
    return [
        *findings,
        *(warning(path, "left by an interrupted export", "delete it") for path in leftovers(target.repository)),
    ]
