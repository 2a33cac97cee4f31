"""`client check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import with_connection_options
from tritonkit.errors import CertificateError, InferenceError, InputError, TokenError, UnreachableError
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, table

if TYPE_CHECKING:
    from client.check_reference import ReferenceFiles
    from client.served_check import CheckResult
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import Connection


@reports_errors
@with_connection_options()
def check(
    connection: Connection,
    models: Annotated[list[str] | None, typer.Argument(help="Served models.")] = None,
    all_models: Annotated[bool, typer.Option("--all", help="Check all models of the server that have a spec.")] = False,
    version: Annotated[str, typer.Option(help="Version to check; default: the server's choice.")] = "",
    repository: Annotated[Path, typer.Option(help="The repository that the server serves.")] = Path("model_repository"),
    golden: Annotated[Path | None, typer.Option(help="A golden.npz; default: the version's.")] = None,
    verdict: Annotated[
        Path | None, typer.Option(help="A verdict.json with the limits; default: the version's.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="A checkpoint with its golden sample in the same folder.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Also measure the served model on labelled images; with --against, compare its metrics."),
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="With --data: the folder of masks.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a running server's answers to the golden images with the checkpoint's; exit 1 if they differ.

    Examples:

    * client check digits

    * client check --all --repository /srv/models --url triton:8001

    * client check digits --against runs/digits/1/best.safetensors --data runs/digits/1/splits
    """
    if all_models == bool(models):
        raise InputError("expected either models to check or --all", code="check.models")
    if golden is not None and against is not None:
        raise InputError("--golden and --against exclude each other; set one of them", code="check.two_references")
    from client.check_reference import ReferenceFiles
    from client.connection import server_at
    from client.model_loading import models_with_spec

    reference_files = ReferenceFiles(golden=golden, checkpoint=against, repository=repository, verdict=verdict)
    results = []
    with server_at(connection) as server, progress(f"connecting to {connection.url}") as report:
        for model in models or models_with_spec(server):
            report(f"checking {model}")
            results.append(_check_model(server, model, version, reference_files, data, masks, all_models))
    print_json(results) if as_json else _print_results(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _check_model(
    server: TritonClient,
    model: str,
    version: str,
    reference_files: ReferenceFiles,
    data: Path | None,
    masks: Path | None,
    continue_after_errors: bool,
) -> CheckResult:
    """Check one model. continue_after_errors: return an error as the model's result, so that others are checked."""
    from client.served_check import check_served_model, failed_check, with_quality
    from tritonkit.triton.runner import TritonRunner

    try:
        runner = TritonRunner(server, model, version).pin_version()
        version = runner.version
        result = check_served_model(runner, reference_files)
        return result if data is None else with_quality(result, runner, data, masks, reference_files.checkpoint)
    except (CertificateError, TokenError, UnreachableError):  # they fail for all models
        raise
    except (InputError, InferenceError) as error:
        if not continue_after_errors:
            raise
        return failed_check(model, version, f"{server.url}/{model}", error)


def _print_results(results: list[CheckResult]) -> None:
    header = ["model", "version", "test", "images", "largest error", "decisions kept", "verdict"]
    table(
        header,
        [
            [
                result.model,
                result.version,
                comparison.asked,
                str(comparison.images),
                f"{comparison.max_abs:.1e} (limit {result.limits.max_abs:.0e})",
                f"{comparison.decisions_kept:.0%}",
                "passed" if result.passed else "FAILED",
            ]
            for result in results
            for comparison in result.comparisons
        ],
    )
    for result in results:
        for measured, metrics in result.quality.items():
            print_text(f"{result.model} version {result.version}: {measured}")
            table(("metric", "value"), [(name, f"{value:.4f}") for name, value in metrics.items()])
        for problem in result.problems:
            print_text(f"{result.origin} version {result.version}: {problem}")
        if result.comparisons and result.verdict is None:
            print_text(
                f"{result.origin} version {result.version}: compared within the limits of fp32, because its "
                "verdict.json was not found; a lower precision may differ by more. Set --verdict to the file"
            )
