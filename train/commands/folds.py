"""The command `train folds`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.commands.output import format_metric
from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table, warn

if TYPE_CHECKING:
    from train.experiments.folds import FoldsResult


@reports_errors
def folds(
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as for train fit.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration.")
    ] = None,
    count: Annotated[int, typer.Option("-k", "--folds", min=2, help="The number of folds.")] = 5,
    only: Annotated[
        str | None, typer.Option(metavar="N,N", help="Train only these folds now, such as 2,4; the rest later.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the experiment; default: OUTPUT/NAME/folds.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cross-validate: train a model for each of k folds, and measure it on the fold, which it has not seen.

    The folds are stratified; `data.group` keeps groups together. `data.val_ratio` of the other folds selects the best
    epoch. The same command continues after a stop, and finished folds are kept. Writes folds.csv, summary.json, and
    predictions.csv with the out-of-fold prediction of each image.

    Examples:

        train folds examples/digits.yaml -k 5

        train folds cells.yaml -k 4 data.group=patient epochs=10 --json

        train folds cells.yaml -k 4 --only 2,4
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train folds")
    from train.config.loading import load_config
    from tritonkit.remotes import local_path

    chosen = _fold_numbers(only)
    resolved = load_config(local_path(config), overrides or [])
    from train.experiments.folds import run_folds

    result = run_folds(resolved, count, chosen, folder, report=warn)
    for fold in result.folds:
        for warning in fold.warnings:
            warn(f"warning: fold {fold.fold}: {warning}")
    if as_json:
        print_json(result)
    else:
        _print(result)


def _fold_numbers(text: str | None) -> list[int]:
    """Parse `2,4`. Raises InputError."""
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"--only {text}: expected numbers of folds, such as 2,4", code="option.only")
    return list(dict.fromkeys(map(int, words)))


def _print(result: FoldsResult) -> None:
    names = list(dict.fromkeys(name for fold in result.folds for name in fold.metrics if "/" not in name))
    rows = [
        [str(fold.fold), str(fold.images), *(format_metric(fold.metrics.get(name)) for name in names)]
        for fold in result.folds
    ]
    if result.summary is not None:
        spreads = [result.summary.get(name) for name in names]
        rows.append(["mean", "", *(format_metric(None if each is None else each.mean) for each in spreads)])
        rows.append(["±", "", *(format_metric(None if each is None else each.std) for each in spreads)])
    table(("fold", "images", *names), rows)
    if result.missing:
        print_text(f"of {result.count} folds, these are not finished: {', '.join(map(str, result.missing))}")
    else:
        print_text(f"out-of-fold predictions: {result.predictions}")
    print_text(str(result.folder))
