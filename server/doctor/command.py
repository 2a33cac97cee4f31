"""`server doctor`, and the same checks before `server up`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.options import Options, UpOptions
from tritonkit.errors import CheckFailedError, Problem
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from tritonkit.repository.finding import Finding


@reports_errors
@options_of(UpOptions)
def doctor(
    up_options: UpOptions,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash large files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show problems that would keep this repository from being served here, with fixes; exit 1 on an error.

    It loads nothing. The options are those of `server up`.

    Examples:

    * server doctor --repository model_repository

    * server doctor --runtime docker --image nvcr.io/nvidia/tritonserver:26.07-py3 --deep
    """
    from server.doctor.diagnosis import diagnose, start_findings
    from server.doctor.machine import inspect_machine

    options = up_options.server_options
    findings = [*diagnose(options, inspect_machine(options.runtime), deep), *start_findings(options)]
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json({"errors": errors, "findings": findings})
    else:
        if findings:
            rows = [[finding.severity, finding.path, finding.message, finding.fix] for finding in findings]
            table(["", "where", "what is wrong", "what to do"], rows)
        print_text(f"{options.repository}: {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)


def check_before_start(options: Options, force: bool = False) -> None:
    """Run the checks before a start. Warnings go to stderr; errors raise CheckFailedError, unless `force` is set.

    `force` does not start a repository that is not signed as the options require.

    Does not check ports, addresses and TLS, which `start` checks. Raises InputError without a repository.
    """
    from server.doctor.diagnosis import diagnose
    from server.doctor.machine import inspect_machine

    findings = diagnose(options, inspect_machine(options.runtime))
    unsigned = [finding for finding in findings if finding.code.startswith("signature.")]
    errors = unsigned if force else [finding for finding in findings if finding.severity == "error"]
    for finding in findings:
        if finding not in errors:
            print(f"warning: {_finding_text(finding)}", file=sys.stderr)
    if errors:
        lines = [f"  {_finding_text(finding)}" for finding in errors]
        hint = "" if unsigned else "; --force starts it anyway"
        raise CheckFailedError(
            "\n".join([f"{options.repository}: not started because of these errors{hint}:", *lines]),
            {"findings": findings},
            code=unsigned[0].code if unsigned else "doctor.errors",
            problems=[Problem(finding.code, _finding_text(finding)) for finding in errors],
        )


def _finding_text(finding: Finding) -> str:
    return f"{finding.path}: {finding.message}. Fix: {finding.fix}"
