"""`client check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import ConnectionOptions
from tritonkit.errors import CertificateError, InferenceError, InputError, TokenError, UnreachableError
from tritonkit.options import options_of
from tritonkit.system.console import (
    JsonOption,
    print_json,
    print_text,
    progress,
    quality_tables,
    reports_errors,
    table,
    warn,
)

if TYPE_CHECKING:
    from client.served_check import CheckResult


@reports_errors
@options_of(ConnectionOptions)
def check(
    options: ConnectionOptions,
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="Served models.")] = None,
    all_models: Annotated[bool, typer.Option("--all", help="Check all models of the server that have a spec.")] = False,
    version: Annotated[str, typer.Option(help="Version to check; default: the server's choice.")] = "",
    repository: Annotated[Path, typer.Option(help="The repository that the server serves.")] = Path("model_repository"),
    golden: Annotated[str | None, typer.Option(metavar="PATH", help="A golden.npz; default: the version's.")] = None,
    verdict: Annotated[
        str | None, typer.Option(metavar="PATH", help="A verdict.json with the limits; default: the version's.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="PATH", help="A checkpoint with its golden sample in the same folder.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Also measure the served model on labelled images; with --against, compare its metrics.",
        ),
    ] = None,
    masks: Annotated[str | None, typer.Option(metavar="PATH", help="With --data: the folder of masks.")] = None,
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
    if masks is not None and data is None:
        raise InputError("--masks: has no effect without --data", code="option.no_effect")
    from client.check_reference import ReferenceFiles
    from client.connection import server_at
    from client.model_loading import models_with_spec
    from client.served_check import check_served_model, failed_check, with_quality
    from tritonkit.remotes import local_path
    from tritonkit.repository.artifact_files import local_artifact
    from tritonkit.repository.verdict import Verdict
    from tritonkit.runtimes.base import pipeline_error
    from tritonkit.spec import ModelSpec
    from tritonkit.triton.runner import TritonRunner

    checkpoint = None if against is None else local_artifact(against)
    reference_files = ReferenceFiles(
        golden=None if golden is None else local_path(golden, (Verdict.FILE, ModelSpec.FILE)),
        checkpoint=checkpoint,
        repository=repository,
        verdict=None if verdict is None else local_path(verdict),
    )
    connection = options.connection(context)
    results = []
    with server_at(connection) as server, progress(f"connecting to {connection.url}") as report:
        for model in models or models_with_spec(server):
            report(f"checking {model}")
            checked_version = version
            try:
                runner = TritonRunner(server, model, version).pin_version()
                checked_version = runner.version
                if runner.spec.pipeline is not None:
                    if all_models:
                        warn(f"{model}: is a pipeline, which is not checked; the models that it calls are")
                        continue
                    raise pipeline_error(runner.spec, runner.origin)
                result = check_served_model(runner, reference_files)
                if data is not None:
                    result = with_quality(result, runner, data, masks, checkpoint)
            except (CertificateError, TokenError, UnreachableError):  # they fail for all models
                raise
            except (InputError, InferenceError) as error:
                if not all_models:
                    raise
                result = failed_check(model, checked_version, f"{server.url}/{model}", error)
            results.append(result)
    print_json(results) if as_json else _print_results(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


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
                "passed" if comparison.is_kept(result.limits) else "FAILED",
            ]
            for result in results
            for comparison in result.comparisons
        ],
    )
    for result in results:
        quality_tables(result.quality, f"{result.model} version {result.version}, ")
        for problem in result.problems:
            print_text(f"{result.origin} version {result.version}: {problem}")
        if result.comparisons and result.verdict is None:
            print_text(
                f"{result.origin} version {result.version}: compared within the limits of fp32, because its "
                "verdict.json was not found; a lower precision may differ by more. Set --verdict to the file"
            )
