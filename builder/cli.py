"""The `builder` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.console import JsonOption, application, print_json, progress, reports_errors, table
from model.errors import InputError

if TYPE_CHECKING:
    from builder.options import Foreign
    from builder.show import Shown
    from builder.sources import Source

app = application("Turn a checkpoint into proven artifacts in a Triton model repository.")

Repository = Annotated[Path, typer.Option(help="The model repository.")]
Images = Annotated[Path | None, typer.Option(help="Judge on the pictures of this folder.")]
Threshold = Annotated[
    float | None, typer.Option(help="Decide by this probability: multilabel, or segmentation of two labels.")
]
Probability = Annotated[
    bool, typer.Option("--probability", help="Segmentation of two labels: give the foreground's probability too.")
]
MaxBatch = Annotated[int, typer.Option(min=1, max=4096, help="The largest batch to prove and to serve.")]


@app.callback()
def builder() -> None:
    """Turn a checkpoint into proven artifacts in a Triton model repository.

    Examples:

    * builder export runs/digits/1/best.safetensors

    * builder export resnet18.pth --model resnet18 --labels imagenet.txt --name resnet18

    * builder verify model.onnx --against runs/digits/1/best.safetensors

    * builder check model_repository
    """


@app.command()
@reports_errors
def export(
    source: Annotated[Path, typer.Argument(help="Our checkpoint, or someone else's .pth, .pt, .ckpt, .safetensors.")],
    onnx: Annotated[str, typer.Option(help="Precision of the ONNX graph: fp32.")] = "fp32",
    name: Annotated[str | None, typer.Option(help="Name to serve it under.")] = None,
    repository: Repository = Path("model_repository"),
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Largest batch to prove and serve; default: as before, or 32.")
    ] = None,
    images: Images = None,
    threshold: Threshold = None,
    probability: Probability = False,
    force: Annotated[bool, typer.Option("--force", help="Publish although the verdict fails, and say so.")] = False,
    model: Annotated[str | None, typer.Option(help="Someone else's weights: their timm model name.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Someone else's weights: a file with one label a line.")] = None,
    mean: Annotated[str | None, typer.Option(help="R,G,B on pixels in 0..1; default: timm's for the model.")] = None,
    std: Annotated[str | None, typer.Option(help="R,G,B on pixels in 0..1; default: timm's for the model.")] = None,
    size: Annotated[str | None, typer.Option(help="N or HEIGHTxWIDTH; default: timm's for the model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Export, prove against the source on real images, and publish as the next version.

    Nothing is published unless the verdict passes.

    Examples:

    * builder export runs/digits/1/best.safetensors --name digits --max-batch 16

    * builder export resnet18.pth --model resnet18 --labels imagenet.txt --images photos/

    * builder export runs/stamps/1/best.safetensors --threshold 0.7 --probability
    """
    if onnx != "fp32":
        raise InputError(f"--onnx {onnx}: only fp32 can be proven by this version")
    from builder.options import foreign_from

    foreign = foreign_from(model, labels, mean, std, size)
    from builder.export import Order, export_onnx
    from builder.terms import Terms

    with progress("reading the source") as report:
        opened = _open_source(source, foreign, name).asked_in(Terms(threshold, probability))
        published = export_onnx(opened, Order(repository, max_batch, images, force), report)
    if as_json:
        print_json(published)
        return
    state = "PUBLISHED ALTHOUGH THE VERDICT FAILED" if published.verdict.forced else "verdict passed"
    typer.echo(f"{state}: {published.verdict.summary()}")
    typer.echo(f"source: {published.source}")
    typer.echo(f"published: {published.artifact}")


@app.command()
@reports_errors
def verify(
    artifact: Annotated[Path, typer.Argument(help="An ONNX file.")],
    against: Annotated[Path, typer.Option(help="The checkpoint it should agree with.")],
    max_batch: MaxBatch = 32,
    images: Images = None,
    threshold: Threshold = None,
    probability: Probability = False,
    as_json: JsonOption = False,
) -> None:
    """Judge an ONNX file against a checkpoint; exit 1 when it fails.

    What was exported with --threshold or --probability is verified with them.

    Example: builder verify model.onnx --against runs/digits/1/best.safetensors
    """
    from builder.export import golden_for, verdict_on
    from builder.sources import source_from_checkpoint
    from builder.terms import Terms

    with progress("comparing with the checkpoint"):
        source = source_from_checkpoint(against).asked_in(Terms(threshold, probability))
        golden = golden_for(source.network.spec, source.golden, images)
        verdict = verdict_on(artifact, source.network, golden, max_batch, source.training)
    if as_json:
        print_json(verdict)
    else:
        typer.echo(f"{artifact}: {'passed' if verdict.passed else 'FAILED'}: {verdict.summary().lstrip()}")
    if not verdict.passed:
        raise typer.Exit(1)


@app.command()
@reports_errors
def check(
    repository: Annotated[Path, typer.Argument(help="The model repository.")] = Path("model_repository"),
    as_json: JsonOption = False,
) -> None:
    """Lint a whole repository offline; exit 1 on an error.

    Example: builder check model_repository --json
    """
    from builder.check import check_repository

    findings = check_repository(repository)
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        print_json({"errors": len(errors), "findings": findings})
    else:
        if findings:
            table(
                ["", "where", "what is wrong", "what to do"], [[f.severity, f.path, f.problem, f.fix] for f in findings]
            )
        typer.echo(f"{repository}: {len(errors)} errors, {len(findings) - len(errors)} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("show")
@reports_errors
def show_command(
    path: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file, or a published model's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show spec, verdict and manifest of anything.

    Example: builder show model_repository/digits
    """
    from builder.show import show

    shown = show(path)
    if as_json:
        print_json(shown)
    else:
        table(["", str(shown.path)], _rows(shown))


def _open_source(path: Path, foreign: Foreign | None, name: str | None) -> Source:
    from builder.sources import source_from_checkpoint, source_from_state_dict

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    if foreign is not None:
        return source_from_state_dict(path, foreign, name)
    if path.suffix in (".pth", ".pt", ".ckpt", ".bin"):
        raise InputError(f"{path}: someone else's weights need --model TIMM_NAME and --labels FILE (one label a line)")
    return source_from_checkpoint(path, name)


def _rows(shown: Shown) -> list[list[str]]:
    rows: list[list[str]] = []
    if (spec := shown.spec) is not None:
        rows += [
            ["name", spec.name],
            *map(list, spec.described()),
            ["metrics", ", ".join(f"{key} {value:.4f}" for key, value in spec.lineage.metrics.items())],
            ["from", spec.lineage.note or spec.lineage.parent or ""],
        ]
    if shown.precision:
        rows.append(["precision", shown.precision])
    if shown.versions:
        rows.append(["versions", ", ".join(map(str, shown.versions))])
    if isinstance(shown.verdict, dict):
        state = "FORCED" if shown.verdict.get("forced") else "passed" if shown.verdict.get("passed") else "FAILED"
        rows.append(["verdict", f"{state} on {shown.verdict.get('images')}"])
    if isinstance(shown.manifest, dict):
        tools = shown.manifest.get("tools")
        made_with = ", ".join(f"{k} {v}" for k, v in tools.items()) if isinstance(tools, dict) else ""
        rows += [["made from", str(shown.manifest.get("source"))], ["made with", made_with]]
    return [row for row in rows if row[1]]
