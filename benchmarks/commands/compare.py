"""`bench compare`: say whether a record is slower than an older one."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonkit.errors import InputError
from tritonkit.system.console import JsonOption, exit_with_error, print_json, reports_errors

FILE_HELP = "A record of `bench run`, or a CSV of `perf_analyzer -f`."
OldArgument = Annotated[str, typer.Argument(metavar="OLD", help=FILE_HELP)]
NewArgument = Annotated[str, typer.Argument(metavar="NEW", help=FILE_HELP)]
ToleranceOption = Annotated[
    str, typer.Option(metavar="5%|0.05", help="A change counts if its whole confidence interval lies beyond this.")
]
ConfidenceOption = Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of all intervals together.")]


@reports_errors
def compare(
    old: OldArgument,
    new: NewArgument,
    tolerance: ToleranceOption = "5%",
    confidence: ConfidenceOption = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Compare two records level by level: images/s, p50 and p99, each with a confidence interval. Exit code 1 if NEW is
    slower.

    A change of the machine itself is no regression: the limit, the same artifact in process, shows it. Records of other
    loads, inputs or machines are refused.

    Examples:

        bench compare before.json after.json

        bench compare before.json after.json --tolerance 10% --json

        bench compare perf_analyzer.csv after.json
    """
    from benchmarks.records import compare as records
    from benchmarks.report.comparison import print_comparison
    from tritonkit.remotes import local_path

    share = parse_share(tolerance)
    before, after = (records.read_measured(local_path(path)) for path in (old, new))
    comparison = records.compare(before, after, share, confidence)
    if as_json:
        print_json(comparison)
    else:
        print_comparison(comparison)
    if words := comparison.slower:
        exit_with_error(f"{new} is slower than {old}: {words}", code=1)


def parse_share(text: str) -> float:
    """Parse `5%` or `0.05`. Raises InputError."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1
    if not 0 <= share < 1:
        raise InputError(f"--tolerance {text}: expected a share such as 5% or 0.05", code="option.tolerance")
    return share
