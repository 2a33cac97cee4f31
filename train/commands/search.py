"""The command `train search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from train.search.result import SearchResult

_ROWS = 10


@reports_errors
def search(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, as for train fit, with a section `search`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Override keys of the configuration, such as search.trials=50."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials that are trained at the same time.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The database, such as postgresql://HOST/DATABASE; one with a password belongs into the environment, "
            "as TRITONKIT_STUDY. Default: a SQLite file in the folder.",
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study in the database; default: the configuration's name.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the search; default: <output>/<name>/search.")
    ] = None,
    is_worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a configuration with other values of some keys, and find the best ones: by grid, random or TPE.

    The same command continues a search that was stopped or killed, and joins one that runs on another host. The last
    line on stdout is the path of the best configuration, for `train fit`.

    Examples:

        train search flowers.yaml

        train search flowers.yaml search.trials=50 search.sampler=random --workers 2

        train search flowers.yaml --storage postgresql://db.example/studies --json
    """
    from train.distributed.processes import Processes

    Processes.check_alone("train search")
    _check_installed()
    from train.search.run import SearchOptions, run_worker
    from train.search.run import search as run_search

    options = SearchOptions(config, overrides or (), folder, study, storage, workers)
    if is_worker:
        run_worker(options)
        return
    result = run_search(options)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _check_installed() -> None:
    """Raise ConfigError if a library of the search is missing."""
    from importlib.util import find_spec

    from tritonkit.errors import ConfigError

    if missing := [module for module in ("optuna", "plotly") if find_spec(module) is None]:
        raise ConfigError(
            f"train search needs the Python modules {' and '.join(missing)}; install them with: "
            "pip install 'tritonkit[search]'",
            code="install.missing_module",
        )


def _print(result: SearchResult) -> None:
    from train.search.space import value_text

    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.values))
    ranked = [trial for trial in result.ranked() if trial.value is not None]
    rows = [
        (
            *(str(trial.number), f"{trial.value:.4f}", trial.state, str(len(trial.epochs))),
            *(value_text(trial.values.get(key, "-")) for key in keys),
        )
        for trial in ranked[:_ROWS]
    ]
    print_text(f"study {result.study}, {len(result.trials)} trials" + (", the best first" if rows else ""))
    table(("trial", result.metric, "state", "epochs", *keys), rows)
    if failed := [str(trial.number) for trial in result.trials if trial.state == "failed"]:
        print_text(f"failed: {', '.join(failed)}; the report says why")
    if result.unfinished:
        print_text(f"{result.unfinished} trials are left; continue with the same command")
    if result.best is not None and result.best.checkpoint is not None:
        print_text(f"checkpoint: {result.best.checkpoint}")
    print_text(f"report: {result.report}")
    if result.config is not None:
        print_text(str(result.config))
