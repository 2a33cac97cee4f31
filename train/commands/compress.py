"""The command `train compress`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.commands.output import format_metric
from train.config.pruning_functions import CHANNELS, ZEROS
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from train.compress import CompressResult


@reports_errors
def compress(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint that `train fit` wrote.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys of its configuration.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="The share of channels or weights to prune in each layer.")] = 0.5,
    method: Annotated[str, typer.Option(help=f"{CHANNELS}, or zeros: {', '.join(ZEROS)}.")] = CHANNELS,
    layers: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Prune these layers or blocks; repeatable.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of training after the pruning; default: half of the run's.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labelled images; default: the splits of the run.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the run below this folder; default: as the run.")] = None,
    serve: Annotated[bool, typer.Option(help="Measure served images per second with Triton.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each model, in turns.")] = 3,
    window_s: Annotated[float, typer.Option(min=0.1, help="Seconds of one window of `bench run`.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Prune a trained model, train it further, and show accuracy, size and served images per second of both.

    It is a new run with the configuration of the old one. The last line on stdout is the path of its best checkpoint.

    Examples:

        train compress runs/digits/1/best.safetensors --sparsity 0.5

        train compress runs/digits/1/best.safetensors --sparsity 0.3 --epochs 5 optimizer.lr=0.001

        train compress runs/digits/1/best.safetensors --method l1_unstructured --no-serve --json
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train compress")
    if method not in (CHANNELS, *ZEROS):
        raise InputError(
            f"--method {method}: unknown; choose one of {', '.join((CHANNELS, *ZEROS))}", code="option.unknown_method"
        )
    from train.compress import CompressOptions
    from train.compress import compress as run_compress
    from train.engine.progress import quiet_lightning

    options = CompressOptions(
        checkpoint=checkpoint,
        sparsity=sparsity,
        method=method,
        layers=tuple(layers or ()),
        epochs=epochs,
        data=data,
        output=output,
        serve=serve,
        rounds=rounds,
        window_s=window_s,
        overrides=tuple(overrides or ()),
    )
    with quiet_lightning():
        result = run_compress(options)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: CompressResult) -> None:
    before, after = result.before, result.after
    rows: list[tuple[str, ...]] = [
        (name, format_metric(old), format_metric(new), "-" if old is None or new is None else f"{new - old:+.4f}")
        for name, old in before.metrics.items()
        for new in (after.metrics.get(name),)
    ]
    for name, old, new, form in (
        ("parameters", before.parameters, after.parameters, ",d"),
        ("file, MB", before.file_bytes / 1e6, after.file_bytes / 1e6, ".2f"),
    ):
        rows.append((name, format(old, form), format(new, form), f"x {new / old:.2f}"))
    rows.append(("zeros", f"{before.zeros:.0%}", f"{after.zeros:.0%}", ""))
    if result.speed_up is not None:
        rates = [f"{statistics.median(each.images_per_s):,.0f}" for each in (before, after)]
        rows.append(("served images per second", *rates, f"x {result.speed_up:.2f}"))
    print_text(f"{result.method} {result.sparsity:.0%}, metrics on {result.measured_on}")
    table(("", "before", "after", "change"), rows)
    print_text(result.conclusion)
    print_text(str(result.checkpoint))
