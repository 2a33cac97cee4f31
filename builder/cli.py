"""The `builder` command."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from builder.commands.export import export
from builder.commands.index import index
from builder.commands.optimize import optimize
from builder.commands.packages import install, package, sign
from builder.commands.pipeline import pipeline
from builder.commands.stores import pull, push
from builder.commands.versions import promote, rollback, versions
from builder.request import VerifyRequest
from tritonkit.options import options_of
from tritonkit.runtimes.tensorrt_plan import TITLES
from tritonkit.system.console import (
    JsonOption,
    application,
    print_json,
    print_text,
    progress,
    quality_tables,
    reports_errors,
    table,
)
from tritonkit.system.files import check_can_write

# Without this, torch's threads spin between batches and take the cores from ONNX Runtime. Torch reads it at import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = application("Turn a checkpoint into verified artifacts in a Triton model repository.")

app.command("export")(export)
app.command("optimize")(optimize)
app.command("index")(index)
app.command("package")(package)
app.command("install")(install)
app.command("sign")(sign)
app.command("pipeline")(pipeline)
app.command("push")(push)
app.command("pull")(pull)
app.command("versions")(versions)
app.command("promote")(promote)
app.command("rollback")(rollback)


@app.callback()
def builder() -> None:
    """Turn a checkpoint into verified artifacts in a Triton model repository.

    Examples:

    * builder export runs/digits/1/best.safetensors --onnx fp16

    * builder export resnet18.pth --model resnet18 --labels imagenet.txt --name resnet18

    * builder optimize runs/digits/1/best.safetensors --target latency

    * builder index runs/units/1/best.safetensors gallery/

    * builder pipeline people.yaml

    * builder verify model.onnx --against runs/digits/1/best.safetensors

    * builder package digits

    * builder install digits-1.zip

    * builder check model_repository
    """


@app.command()
@reports_errors
@options_of(VerifyRequest)
def verify(request: VerifyRequest, as_json: JsonOption = False) -> None:
    """Verify an artifact against a checkpoint; exit 1 if the verdict fails.

    For an artifact that was exported with --threshold or --probability, use the same options here.

    Example: builder verify model.onnx --against runs/digits/1/best.safetensors
    """
    check_can_write(request.report)
    from builder.plan import source_of
    from builder.verification.verify import verify_artifact
    from tritonkit.repository.artifact_files import local_artifact

    with progress("comparing with the checkpoint"):
        verdict = verify_artifact(local_artifact(request.artifact), source_of(request), request.max_batch, request)
    if as_json:
        print_json(verdict)
    else:
        print_text(f"{request.artifact}: {'passed' if verdict.passed else 'FAILED'}: {verdict.summary().lstrip()}")
        quality_tables({measured: metrics for measured, metrics in verdict.quality.items() if " on " in measured})
        for note in verdict.notes:
            print_text(f"warning: {note}")
    if not verdict.passed:
        raise typer.Exit(1)


@app.command()
@reports_errors
def check(
    repository: Annotated[str, typer.Argument(help="The model repository.")] = "model_repository",
    as_json: JsonOption = False,
) -> None:
    """Check a whole repository offline; exit 1 on an error.

    Example: builder check model_repository --json
    """
    from builder.repository.lint import check_repository
    from tritonkit.remotes import local_path

    findings = check_repository(local_path(repository))
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        print_json({"errors": len(errors), "findings": findings})
    else:
        if findings:
            table(["", "where", "problem", "fix"], [[f.severity, f.path, f.message, f.fix] for f in findings])
        print_text(f"{repository}: {len(errors)} errors, {len(findings) - len(errors)} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("show")
@reports_errors
def show_command(
    path: Annotated[str, typer.Argument(help="A checkpoint, an artifact, or a published model's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show the spec, verdict and manifest of a checkpoint, an artifact or a published model.

    Example: builder show model_repository/digits
    """
    from builder.show import show
    from tritonkit.repository.artifact_files import local_artifact

    result = show(local_artifact(path))
    if as_json:
        print_json(result)
        return
    rows: list[tuple[str, str | None]] = []
    if (spec := result.spec) is not None:
        rows += [
            ("name", spec.name),
            *spec.summary_rows(),
            ("metrics", ", ".join(f"{key} {value:.4f}" for key, value in spec.lineage.metrics.items())),
            ("warnings", "; ".join(spec.lineage.warnings)),
            ("from", spec.lineage.note or spec.lineage.parent),
        ]
    header, build, verdict, manifest = result.header, result.build, result.verdict, result.manifest
    optimization = result.optimization
    rows += [
        ("precision", result.precision),
        ("built by", f"{TITLES[header.flavour]} {header.version}" if header else None),
        ("built for", ", ".join(build.compute_capabilities) if build else None),
        ("versions", ", ".join(map(str, result.versions))),
        ("verdict", f"{verdict.state} on {verdict.images}" if verdict else None),
        ("optimized for", f"{optimization.target}: {optimization.reason}" if optimization else None),
        ("candidates", ", ".join(one.name for one in optimization.candidates) if optimization else None),
        ("made from", manifest.source if manifest else None),
        ("made with", ", ".join(map(" ".join, manifest.tools.items())) if manifest else None),
    ]
    table(["", str(result.path)], [[name, value] for name, value in rows if value])
