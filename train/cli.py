"""The `train` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.console import JsonOption, application, print_json, reports_errors, table
from model.errors import InputError
from model.files import check_can_write, check_is_html

if TYPE_CHECKING:
    from model.runners import Runner
    from train.fit import Fitted

# Read when torch loads. Spinning threads starve other processes, and each other where cores are few.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = application("Train an image model from a folder of pictures, and measure one.")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Change keys of the configuration, for this run."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Labelled pictures: a folder of class folders, a CSV or JSON, or a folder with test/ or test.csv."
    ),
]
MasksOption = Annotated[Path | None, typer.Option(help="Segmentation: the folder of masks for a folder of pictures.")]


@app.command("fit")
@reports_errors
def _fit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="See examples/digits.yaml.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model. The last line on stdout is the best checkpoint's path.

    Examples:

        train fit examples/digits.yaml

        train fit examples/digits.yaml epochs=3 optimizer.lr=0.001 augment.enabled=false

        train fit flowers.yaml data.path=~/flowers model.name=resnet50 model.pretrained=true --json

    `train config --task TASK` writes a configuration to start from.
    """
    from train.config import load_config

    resolved = load_config(config, overrides or [])
    from train.fit import fit

    _print_fitted(fit(resolved), as_json)


@app.command("resume")
@reports_errors
def _resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was stopped.")],
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped or killed, from its last whole epoch.

    Example: train resume runs/digits/1
    """
    from train.fit import resume

    _print_fitted(resume(run), as_json)


@app.command("config")
@reports_errors
def _config(
    task: Annotated[str, typer.Option(help="multiclass, multilabel, embedding, segmentation, heads.")] = "multiclass",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema, for editors.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Write a commented example configuration for a task.

    Examples:

        train config --task segmentation --output people.yaml

        train config --schema --output tritonkit.schema.json
    """
    import json

    from train.example import example_of
    from train.example import schema as schema_of

    text = json.dumps(schema_of(), indent=2) + "\n" if schema else example_of(task)
    if output is None:
        print(text, end="")
        return
    if output.exists():
        raise InputError(f"{output}: is there already; name another file, or delete it")
    from model.files import atomic_write

    with atomic_write(output) as beside:
        beside.write_text(text, encoding="utf-8")
    print(output)


@app.command("prepare")
@reports_errors
def _prepare(
    source: Annotated[Path, typer.Argument(help="A folder of class folders, a CSV or JSON, or a folder of pictures.")],
    target: Annotated[Path, typer.Argument(help="The folder to make.")],
    task: Annotated[str, typer.Option(help="multiclass, multilabel, embedding, segmentation.")] = "multiclass",
    masks: MasksOption = None,
    mask_suffix: Annotated[str, typer.Option(help="What the names of masks have besides, such as _mask.")] = "",
    mask_values: Annotated[
        str | None, typer.Option(metavar="MAPPING", help="What masks hold: background: 0, nucleus: 1-255.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Another column: image=filename, label=class.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Segmentation: names of the class numbers; multilabel: columns; a,b,c.")
    ] = None,
    ratio: Annotated[str, typer.Option(help="TRAIN:VAL:TEST or TRAIN:VAL.")] = "0.7:0.15:0.15",
    top_classes: Annotated[int | None, typer.Option(min=1, help="Keep only the most common classes.")] = None,
    by: Annotated[str | None, typer.Option(help="Split by picture, or by class (for unseen ones).")] = None,
    group: Annotated[
        str | None, typer.Option(help="A column, such as patient: what is equal there stays in one part.")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="A column of train, val and test.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check labelled pictures and split them: train.csv, val.csv, test.csv and data.json with a fingerprint.

    Examples:

        train prepare pictures/ splits/ --ratio 0.8:0.2 --top-classes 10

        train prepare people/images splits/ --task segmentation --masks people/masks

        train prepare cells.csv splits/ --column image=filename --column label=class --group patient
    """
    from train.prepare import PrepareOptions, prepare

    order = PrepareOptions(
        source=source,
        target=target,
        task=task,
        masks=masks,
        mask_suffix=mask_suffix,
        mask_values=mask_values,
        columns=tuple(column or ()),
        labels=labels,
        ratio=ratio,
        top_classes=top_classes,
        by=by,
        group=group,
        split_column=split_column,
        seed=seed,
    )
    prepared = prepare(order)
    if as_json:
        print_json(prepared)
        return
    counts = ", ".join(f"{part} {count}" for part, count in prepared.pictures.items())
    print(f"{counts}; {len(prepared.labels)} labels; fingerprint {prepared.fingerprint[:12]}")
    print(prepared.folder)


@app.command("test")
@reports_errors
def _test(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or anything exported from one.")],
    data: DataOption = None,
    masks: MasksOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Measure this ONNX file in the checkpoint's place.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Measure the served model: HOST:PORT of Triton's gRPC port.")] = None,
    model: Annotated[str | None, typer.Option(help="With --url: the model's name; default: the checkpoint's.")] = None,
    mistakes: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page of the worst mistakes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on labelled pictures: by default those its run kept for testing.

    Examples:

        train test runs/digits/1/best.safetensors

        train test runs/digits/1/best.safetensors --data labelled.csv --json

        train test runs/digits/1/best.safetensors --mistakes mistakes.html

        train test runs/digits/1/best.safetensors --from model_repository/digits/1/model.onnx

        train test runs/digits/1/best.safetensors --url 127.0.0.1:8001
    """
    from train.evaluate import evaluate

    if source is not None and url is not None:
        raise InputError("--from and --url both say what to measure; give one")
    check_is_html(mistakes)
    check_can_write(mistakes)
    evaluation = evaluate(checkpoint, data, masks, _runner(checkpoint, source, url, model), mistakes)
    if as_json:
        print_json(evaluation)
        return
    part = "" if evaluation.part == "train" else f" ({evaluation.part})"  # or without parts
    _print_metrics(
        f"{evaluation.measured} on {evaluation.images} pictures of {evaluation.data}{part}", evaluation.metrics
    )
    if mistakes is not None:
        print(f"mistakes: {mistakes}")


def _runner(checkpoint: Path, source: Path | None, url: str | None, model: str | None) -> Runner | None:
    """What answers in the checkpoint's place."""
    if source is not None:
        from model.runners import open_artifact

        return open_artifact(source)
    if url is None:
        return None
    from model.checkpoint import read_spec
    from model.runners.triton import TritonRunner, TritonServer

    return TritonRunner(TritonServer(url), model or read_spec(checkpoint).name)


def _print_fitted(fitted: Fitted, as_json: bool) -> None:
    if as_json:
        print_json(fitted)
        return
    _print_metrics(f"{fitted.run}, best epoch", fitted.metrics)
    if fitted.exported is not None:
        print(f"exported: {fitted.exported}")
    print(fitted.checkpoint)


def _print_metrics(title: str, metrics: dict[str, float | None]) -> None:
    print(title)
    table(("metric", "value"), [(name, "-" if value is None else f"{value:.4f}") for name, value in metrics.items()])
