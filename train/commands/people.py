"""The commands `train collect`, `train segment` and `train crop`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, warn


@reports_errors
def collect(
    url: Annotated[str, typer.Option(help="The address of the collection service, such as https://HOST/collections.")],
    group: Annotated[str, typer.Option(help="The group of pictures to load.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to load into; default: one named like the group.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Pictures that are fetched at once.")] = 8,
    retry_s: Annotated[
        float, typer.Option(min=0, help="Seconds for which a failed request is repeated, with growing pauses.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Load a group of labelled pictures from a collection service; run it again to continue or to update.

    Writes `pictures/` and the table `images.json`, which `train fit` reads. A token comes from the environment
    variable TRITONKIT_COLLECTION_TOKEN. A picture that cannot be used is listed; the exit code is then 1.

    Examples:

        train collect --url https://collections.example.org --group street

        train collect --url http://127.0.0.1:9200 --group street --output data/street --json

        train fit people.yaml data.path=data/street
    """
    from train.people.collect import CollectOptions
    from train.people.collect import collect as run_collect
    from tritonkit.spec import NAME_PATTERN

    if output is None and not re.fullmatch(NAME_PATTERN, group):
        raise InputError(
            f"--group {group}: cannot name a folder; set the folder with --output", code="collection.output_missing"
        )
    result = run_collect(CollectOptions(url, group, output or Path(group), threads, retry_s))
    for picture, reason in result.rejected.items():
        warn(f"left out: {picture}: {reason}")
    if as_json:
        print_json(result)
    else:
        print(f"{result.images} pictures of group {group}, {result.fetched} fetched ({result.bytes / 1e6:,.1f} MB)")
        print_text(str(result.table))
    if result.rejected:
        raise typer.Exit(1)
