"""All findings for serving a repository on this machine."""

from __future__ import annotations

from pathlib import Path

from server.doctor.machine import Machine
from server.doctor.model_checks import check_model
from server.doctor.models_to_load import find_models_to_load
from server.doctor.plan_checks import check_plans
from server.doctor.resource_checks import check_resources
from server.doctor.target_environment import TargetEnvironment, inspect_target
from server.network_policy import check_network_options, security_warnings
from server.options import Options
from server.ports import check_ports_free
from server.runtimes.docker_runtime import engine_has_gpu
from tritonkit.errors import InputError, ServerError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.staging import interrupted_exports
from tritonkit.triton.model_config import models_in


def diagnose(options: Options, machine: Machine, deep: bool = False) -> list[Finding]:
    """Return the findings, errors first: with an error, a model does not load or gives wrong answers.

    deep: also hash large files. Raises InputError for a missing repository or model.
    """
    repository = options.repository
    if not repository.is_dir():
        raise InputError(
            f"{repository}: is not a model repository; create one with `builder export`", code="repository.missing"
        )
    target, findings = inspect_target(options, machine)
    return sorted([*findings, *_repository_findings(target, deep)], key=lambda finding: finding.severity != "error")


def start_findings(options: Options) -> list[Finding]:
    """Return what `server up` would refuse: ports, addresses, certificates, Docker; and security warnings."""
    findings = [
        warning(options.repository, problem.message, "see docs/security.md", code=problem.code)
        for problem in security_warnings(options)
    ]
    try:
        check_network_options(options)
        check_ports_free(options.bind_addresses)
    except (InputError, ServerError) as reason:
        message, _, fix = str(reason).rpartition("\n")
        fix = fix if message else "change the options as the message says"
        findings.append(error(Path(options.host), message or str(reason), fix, code=reason.code))
    if options.runtime == "docker":
        try:
            engine_has_gpu()
        except (InputError, ServerError) as reason:
            findings.append(error(options.repository, str(reason), "then run `server doctor` again", code=reason.code))
    return findings


def _repository_findings(target: TargetEnvironment, deep: bool) -> list[Finding]:
    names = target.options.models
    existing = [folder.name for folder in models_in(target.repository)]
    if missing := [name for name in names if name not in existing]:
        missing_text = ", ".join(map(repr, missing))
        raise InputError(
            f"{target.repository} has no model {missing_text}; it has: {', '.join(existing) or 'none'}",
            code="repository.no_model",
        )
    models, findings = find_models_to_load(target.repository, names)
    for model in models:
        findings += [*check_model(model, target, deep), *check_plans(model, target)]
    findings += check_resources(models, target)
    return [
        *findings,
        *(
            warning(path, "left by an interrupted export", "delete it", code="repository.leftover")
            for path in interrupted_exports(target.repository)
        ),
    ]
