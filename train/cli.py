"""The `train` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from model.console import JsonOption, application, print_json, reports_errors

# Read when torch loads. Spinning threads starve other processes, and each other where cores are few.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = application("Train an image model from a folder of pictures, and measure one.")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Change keys of the configuration, for this run."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(help="A folder of class folders (or its test/ part), or a CSV with the header image_path,label."),
]


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
    """
    from train.config import load_config

    resolved = load_config(config, overrides or [])
    from train.fit import fit

    fitted = fit(resolved)
    if as_json:
        print_json(fitted)
        return
    _print_metrics(f"{fitted.run}, best epoch", fitted.metrics)
    print(fitted.checkpoint)


@app.command("test")
@reports_errors
def _test(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or anything exported from one.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on labelled pictures: by default those its run kept for testing.

    Examples:

        train test runs/digits/1/best.safetensors

        train test runs/digits/1/best.safetensors --data labelled.csv --json
    """
    from train.evaluate import evaluate

    evaluation = evaluate(checkpoint, data)
    if as_json:
        print_json(evaluation)
        return
    _print_metrics(f"{checkpoint} on {evaluation.images} pictures of {evaluation.data}", evaluation.metrics)


def _print_metrics(title: str, metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(title, soft_wrap=True, markup=False)
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
