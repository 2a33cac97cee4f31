"""`bench report`: show records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors

RecordsArgument = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Records of `bench run`, and CSV files of `perf_analyzer -f`.")
]
HtmlOption = Annotated[Path | None, typer.Option(help="Write one offline HTML page instead of tables.")]


@reports_errors
def report(records: RecordsArgument, html: HtmlOption = None, as_json: JsonOption = False) -> None:
    """Show records on the terminal, or as one HTML page that compares them.

    Examples:

        bench report bench-cats-*.json

        bench report before.json after.json --html report.html

        bench report cats.json perf_analyzer.csv --html report.html
    """
    from benchmarks.records.compare import read_measured
    from tritonkit.remotes import local_path

    loaded = [read_measured(local_path(path)) for path in records]
    if html is not None:
        from benchmarks.report.report import write_report

        write_report(html, loaded)
    if as_json:
        print_json({"records": [record.model_dump(mode="json") for record in loaded], "html": html})
    elif html is not None:
        print_text(f"report: {html}")
    else:
        from benchmarks.report.table import print_measured

        for record in loaded:
            print_measured(record)
