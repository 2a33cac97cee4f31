"""All findings for serving a repository on this machine."""

from __future__ import annotations

from pathlib import Path

from server.doctor.machine import Machine
from server.doctor.model_checks import check_model
from server.doctor.resource_checks import check_resources
from server.doctor.target_environment import inspect_target
from server.network_policy import check_network_options, security_warnings
from server.options import Options
from server.ports import check_ports_free
from server.runtimes.docker_runtime import engine_has_gpu
from tritonkit.errors import CheckFailedError, InputError, ServerError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.lint import LintScope, lint
from tritonkit.repository.signing.check import check_signed

MAX_HASHED_BYTES = 64 * 2**20
"""Larger files are hashed only with `deep`, to keep the start of a server fast."""


def diagnose(options: Options, machine: Machine, deep: bool = False) -> list[Finding]:
    """Return the findings, errors first: with an error, a model does not load or gives wrong answers.

    They are those of the linter for what the server loads, and those of the machine. deep: also hash large files.
    Raises InputError for a missing repository or model.
    """
    target, findings = inspect_target(options, machine)
    gpu = target.machine.gpu
    scope = LintScope(
        options.repository,
        target.image,
        gpu.compute_capability if gpu else None,
        options.version_compatible,
        to_serve=True,
        models=options.models,
        max_hashed_bytes=None if deep else MAX_HASHED_BYTES,
    )
    models, lint_findings = lint(scope)
    findings += lint_findings
    for model in models:
        findings += check_model(model, target)
    findings += check_resources(models, target)
    findings += _signature_findings(options)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _signature_findings(options: Options) -> list[Finding]:
    """What is not signed as the options require; `server up` refuses it also with --force."""
    if options.require_signed is None:
        return []
    try:
        check_signed(options.repository, options.models, options.require_signed)
    except CheckFailedError as failed:
        fix = "sign it with `builder sign`, or install a signed package"
        return [error(options.repository, problem.message, fix, code=problem.code) for problem in failed.problems]
    return []


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
