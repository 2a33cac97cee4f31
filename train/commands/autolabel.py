"""The command `train autolabel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.autolabel.options import AutolabelOptions
from train.commands.output import format_metric
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from train.autolabel.result import AutolabelResult

_DEFAULT_THRESHOLD = 0.8


@reports_errors
def autolabel(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as for train fit.")],
    unlabelled: Annotated[Path, typer.Option(metavar="DIR", help="The folder of unlabelled images.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help=f"Accept labels from this confidence on; default: {_DEFAULT_THRESHOLD}."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="Choose the threshold so that the expected error of the accepted labels is at most this."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="The probability with which --max-error is kept, over all rounds.")
    ] = AutolabelOptions.confidence,
    calibration: Annotated[
        float, typer.Option(help="With --max-error: share of the training images that only choose the threshold.")
    ] = AutolabelOptions.calibration,
    rounds: Annotated[int, typer.Option(min=1, help="The most rounds.")] = AutolabelOptions.rounds,
    folds: Annotated[
        int, typer.Option(min=0, help="Trainings that look for wrong given labels, at least 2; 0: do not look.")
    ] = AutolabelOptions.folds,
    round_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the trainings with accepted labels; default: as configured.")
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Decisions exported from review.html.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write into this folder; default: <output>/<name>/autolabel.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Label images with the model's own sure answers, train on them, and repeat until nothing is gained.

    Multiclass. The test part says in the end whether it helped. Start the command again to continue after a stop. The
    last line on stdout is the path of the better checkpoint.

    Examples:

        train autolabel flowers.yaml --unlabelled photos/ --threshold 0.9

        train autolabel flowers.yaml --unlabelled photos/ --max-error 0.02 --rounds 3

        train autolabel flowers.yaml --unlabelled photos/ --decisions decisions.csv --folder runs/second
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train autolabel")
    if threshold is not None and max_error is not None:
        raise InputError("--threshold and --max-error both choose the threshold; use only one", code="option.exclusive")
    shares = {"--max-error": max_error, "--confidence": confidence, "--calibration": calibration}
    for name, value in shares.items():
        if value is not None and not 0 < value < 1:
            raise InputError(f"{name} {value:g}: expected a number between 0 and 1", code="option.out_of_range")
    if folds == 1:
        raise InputError("--folds 1: expected at least 2, or 0 to leave the check out", code="option.out_of_range")
    from train.autolabel.rounds import autolabel as run_autolabel
    from train.config.loading import load_config
    from tritonkit.remotes import local_path

    options = AutolabelOptions(
        unlabelled=unlabelled,
        threshold=_DEFAULT_THRESHOLD if threshold is None and max_error is None else threshold,
        max_error=max_error,
        confidence=confidence,
        calibration=calibration,
        rounds=rounds,
        folds=folds,
        round_epochs=round_epochs,
        decisions=decisions,
        folder=folder,
    )
    result = run_autolabel(load_config(local_path(config), overrides or []), options)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: AutolabelResult) -> None:
    rows = []
    for each in result.rounds:
        error = each.error
        rows.append(
            (
                str(each.number),
                f"{each.trained_on:,}",
                f"{each.val:.4f}",
                format_metric(each.threshold),
                f"{each.accepted:,}",
                f"{each.accepted_so_far:,}",
                "-" if error.value is None else f"{error.value:.2%} ({error.low:.2%} to {error.high:.2%})",
            )
        )
    header = ("round", "learned", "val", "from confidence", "accepted", "so far", "wrong on the holdout, 95 %")
    table(header, rows)
    for note in result.notes:
        print_text(note)
    if result.without_labels:
        print_text(f"labels that were given to no image: {', '.join(map(repr, result.without_labels))}")
    if result.suspects:
        print_text(f"{result.suspects} given labels may be wrong: {result.folder / 'suspects.csv'}")
    print_text(result.conclusion)
    print_text(f"labels: {result.labels}\npage: {result.page}")
    print_text(str(result.checkpoint))
