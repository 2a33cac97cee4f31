"""The command `train lr`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors
from tritonkit.system.files import check_can_write

MAX_LR = {"log": 10.0, "linear": 0.3}
MIN_LR = {"log": 1e-6, "linear": 1e-4}


@reports_errors
def lr(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as for train fit.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration."),
    ] = None,
    scale: Annotated[
        Literal["log", "linear"], typer.Option(help="How the learning rate grows from step to step.")
    ] = "log",
    min_lr: Annotated[
        float | None, typer.Option(help="The first learning rate; default: 1e-6, or 1e-4 with --scale linear.")
    ] = None,
    max_lr: Annotated[
        float | None, typer.Option(help="The last learning rate; default: 10, or 0.3 with --scale linear.")
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="The number of learning rates.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The plot; default: learning_rate.png in the folder of the runs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find a learning rate: train copies of the network with a rate that grows, and plot the loss.

    The last line on stdout is the suggestion. With `optimizer.lr: auto`, train fit finds and uses it by itself.

    Examples:

        train lr examples/digits.yaml

        train lr flowers.yaml batch_size=128 --min-lr 1e-5 --max-lr 1 --output lr.png

        train lr flowers.yaml --scale linear --max-lr 0.1 --json
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train lr")
    low, high = (
        chosen if chosen is not None else defaults[scale] for chosen, defaults in ((min_lr, MIN_LR), (max_lr, MAX_LR))
    )
    if not 0 < low < high < float("inf"):
        raise InputError(
            f"--min-lr {low:g}, --max-lr {high:g}: expected 0 < min-lr < max-lr; change one of them",
            code="option.lr_range",
        )
    if output is not None and output.suffix != ".png":
        raise InputError(f"--output {output}: expected a name that ends in .png", code="output.not_png")
    check_can_write(output)
    from train.config.loading import load_config
    from tritonkit.remotes import local_path

    resolved = load_config(local_path(config), overrides or [])
    from train.engine.failures import translate_failures
    from train.engine.lr_finder.finder import SweepOptions, draw_search, find_learning_rate, log_search
    from train.engine.plan import plan_run, with_batch_size
    from train.engine.progress import quiet_lightning

    options = SweepOptions(min_lr=low, max_lr=high, steps=steps, scale=scale)
    folder = resolved.output / resolved.name
    plot = output or folder / "learning_rate.png"
    check_can_write(plot)
    with quiet_lightning(), translate_failures(None, resolved):
        search = find_learning_rate(with_batch_size(plan_run(resolved)), options)
        plot.unlink(missing_ok=True)  # a drawing that fails leaves none
        draw_search(plot, search, resolved.name)
        events = resolved.tensorboard and log_search(folder, resolved.tensorboard, resolved.name, search, plot)
    if as_json:
        paths = {"plot": str(plot) if plot.is_file() else None, "tensorboard": events and str(events)}
        print_json({**search.model_dump(mode="json"), **paths})
        return
    print_text(f"{search.lr:g}: {search.reason}")
    if plot.is_file():
        print_text(f"plot: {plot}")
    if events:
        print_text(f"tensorboard: {events}")
    print_text(f"{search.lr:g}")
