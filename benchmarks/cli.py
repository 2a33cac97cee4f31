"""The `bench` command."""

from __future__ import annotations

from benchmarks.commands.compare import compare
from benchmarks.commands.report import report
from benchmarks.commands.run import run
from benchmarks.commands.tune import tune
from tritonkit.system.console import application

app = application("Measure a served model: write records, show reports, compare, and tune.")

app.command("run")(run)
app.command("report")(report)
app.command("compare")(compare)
app.command("tune")(tune)
