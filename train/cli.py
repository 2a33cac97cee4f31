"""The `train` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.commands.autolabel import autolabel
from train.commands.baseline import baseline
from train.commands.compress import compress
from train.commands.embed import embed
from train.commands.folds import folds
from train.commands.lr import lr
from train.commands.output import print_fit_result, print_metrics
from train.commands.people import collect, crop, segment
from train.commands.quantize import quantize
from train.commands.report import report
from train.commands.run_argument import run_path
from train.commands.search import search
from train.commands.sync import sync
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, application, print_json, reports_errors, warn
from tritonkit.system.files import check_can_write, check_is_html

if TYPE_CHECKING:
    from tritonkit.runtimes import Runner

# torch reads this when it loads. Active waiting takes cores from other processes, and from torch's own threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = application("Train an image model from a folder of images, and measure its quality.")

app.command("autolabel")(autolabel)
app.command("collect")(collect)
app.command("compress")(compress)
app.command("crop")(crop)
app.command("embed")(embed)
app.command("folds")(folds)
app.command("quantize")(quantize)
app.command("report")(report)
app.command("segment")(segment)
app.command("sync")(sync)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration for this run."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Labelled images: a folder of class folders, a CSV or JSON, or a folder with test/ or test.csv.",
    ),
]
MasksOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="Segmentation: the folder of masks for a folder of images.")
]


@app.command("fit")
@reports_errors
def _fit(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="See examples/digits.yaml.")],
    overrides: Overrides = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model. The last line on stdout is the path of the best checkpoint.

    Examples:

        train fit examples/digits.yaml

        train fit examples/digits.yaml epochs=3 optimizer.lr=0.001 augment.enabled=false

        train fit flowers.yaml data.path=~/flowers model.name=resnet50 model.pretrained=true --json

    `train config --task TASK` writes an example configuration.
    """
    from train.config.loading import load_config
    from train.distributed.processes import Processes
    from tritonkit.remotes import local_path

    if (processes := Processes.of_launcher()) is not None and processes.rank > 0:
        from train.engine.worker import join_fit

        join_fit(lambda: load_config(local_path(config), overrides or []), processes)
        return
    resolved = load_config(local_path(config), overrides or [])
    if resolved.search is not None:
        warn("search: is used by `train search` alone; this trains the other values of the file")
    from train.engine.fit import fit

    print_fit_result(fit(resolved), as_json)


app.command("baseline")(baseline)
app.command("lr")(lr)
app.command("search")(search)


@app.command("resume")
@reports_errors
def _resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of an unfinished run.")],
    as_json: JsonOption = False,
) -> None:
    """Resume a run that was stopped or killed, from its last complete epoch.

    Example: train resume runs/digits/1
    """
    from train.distributed.processes import Processes

    folder = run_path(run)
    if (processes := Processes.of_launcher()) is not None and processes.rank > 0:
        from train.engine.worker import join_resume

        join_resume(folder, processes)
        return
    from train.engine.fit import resume

    print_fit_result(resume(folder), as_json)


@app.command("config")
@reports_errors
def _config(
    task: Annotated[str, typer.Option(help="multiclass, multilabel, embedding, segmentation, heads.")] = "multiclass",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema, for editors.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
) -> None:
    """Write a commented example configuration for a task.

    Examples:

        train config --task segmentation --output people.yaml

        train config --schema --output tritonkit.schema.json
    """
    import json

    from train.config.example import example_config
    from train.config.example import schema as config_schema

    text = json.dumps(config_schema(), indent=2) + "\n" if schema else example_config(task)
    if output is None:
        print(text, end="")
        return
    if output.exists():
        raise InputError(f"{output}: already exists; name another file, or delete it", code="output.exists")
    from tritonkit.system.files import atomic_write

    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(output)


@app.command("prepare")
@reports_errors
def _prepare(
    source: Annotated[str, typer.Argument(help="A folder of class folders, a CSV or JSON, or a folder of images.")],
    target: Annotated[Path, typer.Argument(help="The folder to create.")],
    task: Annotated[str, typer.Option(help="multiclass, multilabel, embedding, segmentation.")] = "multiclass",
    masks: MasksOption = None,
    mask_suffix: Annotated[
        str, typer.Option(help="The suffix that mask names add to image names, such as _mask.")
    ] = "",
    mask_values: Annotated[
        str | None,
        typer.Option(metavar="MAPPING", help="The values of each class in masks: background: 0, nucleus: 1-255."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help="Your column of a standard name: image=filename, label=class."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Segmentation: names of the class numbers; multilabel: label columns; a,b,c.")
    ] = None,
    ratio: Annotated[str, typer.Option(help="TRAIN:VAL:TEST or TRAIN:VAL.")] = "0.7:0.15:0.15",
    top_classes: Annotated[int | None, typer.Option(min=1, help="Keep only the most common classes.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Split by picture, or by class (to measure on unseen classes).")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A column, such as patient: images with an equal value stay in one part.")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="The column that assigns each image to train, val or test.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the split.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check and split labelled images: writes train.csv, val.csv, test.csv, and data.json with a fingerprint.

    Examples:

        train prepare pictures/ splits/ --ratio 0.8:0.2 --top-classes 10

        train prepare people/images splits/ --task segmentation --masks people/masks

        train prepare cells.csv splits/ --column image=filename --column label=class --group patient
    """
    from train.data.prepare import PrepareOptions, prepare

    options = PrepareOptions(
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
    prepared = prepare(options)
    if as_json:
        print_json(prepared)
        return
    counts = ", ".join(f"{part} {count}" for part, count in prepared.pictures.items())
    print(f"{counts}; {len(prepared.labels)} labels; fingerprint {prepared.fingerprint[:12]}")
    print(prepared.folder)


@app.command("test")
@reports_errors
def _test(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or anything exported from one.")],
    data: DataOption = None,
    masks: MasksOption = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="PATH", help="Measure this ONNX file instead of the checkpoint.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Measure the served model: HOST:PORT of Triton's gRPC port.")] = None,
    model: Annotated[str | None, typer.Option(help="With --url: the model's name; default: the checkpoint's.")] = None,
    mistakes: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a report of the worst mistakes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on labelled images; default: the test images of its run.

    Examples:

        train test runs/digits/1/best.safetensors

        train test runs/digits/1/best.safetensors --data labelled.csv --json

        train test runs/digits/1/best.safetensors --mistakes mistakes.html

        train test runs/digits/1/best.safetensors --from model_repository/digits/1/model.onnx

        train test runs/digits/1/best.safetensors --url 127.0.0.1:8001
    """
    from train.evaluate import evaluate

    if source is not None and url is not None:
        raise InputError("--from and --url both select what to measure; use only one", code="option.exclusive")
    check_is_html(mistakes)
    check_can_write(mistakes)
    evaluation = evaluate(checkpoint, data, masks, _runner(checkpoint, source, url, model), mistakes)
    if as_json:
        print_json(evaluation)
        return
    part = "" if evaluation.part == "train" else f" ({evaluation.part})"  # "train" also stands for data without parts
    print_metrics(f"{evaluation.measured} on {evaluation.images} images of {evaluation.data}{part}", evaluation.metrics)
    if mistakes is not None:
        print(f"mistakes: {mistakes}")


def _runner(checkpoint: str, source: str | None, url: str | None, model: str | None) -> Runner | None:
    """Open the runner to measure instead of the checkpoint; None for the checkpoint itself."""
    if source is not None:
        from tritonkit.repository.artifact_files import local_artifact
        from tritonkit.runtimes import open_artifact

        return open_artifact(local_artifact(source))
    if url is None:
        return None
    from tritonkit.checkpoint import read_spec
    from tritonkit.remotes import local_path
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.runner import TritonRunner

    return TritonRunner(TritonClient(url), model or read_spec(local_path(checkpoint)).name)


if __name__ == "__main__":
    app()
