"""`server doctor`, and the same checks before `server up`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.errors import CheckFailedError, Problem
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from server.options import Options
    from tritonkit.repository.finding import Finding


class RuntimeChoice(StrEnum):
    """The values of --runtime."""

    pip = "pip"
    docker = "docker"


@reports_errors
def doctor(
    repository: Annotated[Path, typer.Option(help="The model repository to serve.")] = Path("model_repository"),
    models: Annotated[list[str] | None, typer.Option("--model", help="Check only this model; repeatable.")] = None,
    runtime: Annotated[RuntimeChoice, typer.Option(help="The runtime that will serve it.")] = RuntimeChoice.pip,
    image: Annotated[str | None, typer.Option(help="The image of --runtime docker.")] = None,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    host: Annotated[
        str, typer.Option(help="The address to listen on. This and the next options are those of `server up`.")
    ] = ("127.0.0.1"),
    expose: Annotated[bool, typer.Option("--expose")] = False,
    insecure: Annotated[bool, typer.Option("--insecure")] = False,
    tls_cert: Annotated[Path | None, typer.Option()] = None,
    tls_key: Annotated[Path | None, typer.Option()] = None,
    tls_ca: Annotated[Path | None, typer.Option()] = None,
    cache_mib: Annotated[int, typer.Option(min=0)] = 0,
    version_compatible: Annotated[bool, typer.Option("--version-compatible")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash large files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show problems that would keep this repository from being served here, with fixes; exit 1 on an error.

    Examples:

    * server doctor --repository model_repository

    * server doctor --runtime docker --image nvcr.io/nvidia/tritonserver:26.07-py3 --deep
    """
    from server.doctor.diagnosis import diagnose, start_findings
    from server.doctor.machine import inspect_machine
    from server.options import Options
    from server.security import Security

    options = Options(
        repository=repository,
        models=tuple(models or ()),
        runtime=runtime.value,
        image=image,
        http_port=http_port,
        grpc_port=grpc_port,
        host=host,
        security=Security(tls_certificate=tls_cert, tls_key=tls_key, tls_ca=tls_ca, expose=expose, plaintext=insecure),
        metrics_port=metrics_port,
        cache_mib=cache_mib,
        version_compatible=version_compatible,
    )
    findings = [*diagnose(options, inspect_machine(options.runtime), deep), *start_findings(options)]
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json({"errors": errors, "findings": findings})
    else:
        if findings:
            rows = [[finding.severity, finding.path, finding.message, finding.fix] for finding in findings]
            table(["", "where", "what is wrong", "what to do"], rows)
        print_text(f"{repository}: {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)


def check_before_start(options: Options, force: bool = False) -> None:
    """Run the checks before a start. Warnings go to stderr; errors raise CheckFailedError, unless `force` is set.

    Does not check ports, addresses and TLS, which `start` checks. Raises InputError without a repository.
    """
    from server.doctor.diagnosis import diagnose
    from server.doctor.machine import inspect_machine

    findings = diagnose(options, inspect_machine(options.runtime))
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in findings if force else [finding for finding in findings if finding not in errors]:
        print(f"warning: {_finding_text(finding)}", file=sys.stderr)
    if errors and not force:
        lines = [f"  {_finding_text(finding)}" for finding in errors]
        raise CheckFailedError(
            "\n".join(
                [f"{options.repository}: not started because of these errors; --force starts it anyway:", *lines]
            ),
            {"findings": findings},
            code="doctor.errors",
            problems=[Problem(finding.code, _finding_text(finding)) for finding in errors],
        )


def _finding_text(finding: Finding) -> str:
    return f"{finding.path}: {finding.message}. Fix: {finding.fix}"
