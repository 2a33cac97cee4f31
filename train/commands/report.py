"""`train report`: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.commands.output import format_metric
from train.commands.run_argument import run_path
from tritonkit.system.console import JsonOption, print_json, reports_errors, table
from tritonkit.system.files import check_can_write, check_is_html


@reports_errors
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or a checkpoint in it.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the page here; default: report.html in the run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one page about a run, also about an unfinished one: figures with 95 % intervals, curves, mistakes, lineage.

    The last line on stdout is the path of the page. Each training writes it too.

    Examples:

        train report runs/digits/1

        train report runs/digits/1/best.safetensors --html digits.html
    """
    folder = run_path(run)
    check_is_html(html)
    check_can_write(html)
    from train.engine.run_folder import RunFolder
    from train.engine.run_report import write_report

    written = write_report(RunFolder.open(folder), html)
    if as_json:
        print_json(written)
        return
    print(f"{written.run}, best epoch, {written.part} part" if written.finished else f"{written.run}: not finished")
    rows = [
        (
            name,
            format_metric(each.value),
            "" if each.low is None else f"{each.low:.4f} to {each.high:.4f}",
        )
        for name, each in written.metrics.items()
        if "/" not in name
    ]
    if rows:
        table(("metric", "value", "95 % interval"), rows)
    print(written.report)
