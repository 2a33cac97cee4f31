"""The `bench` command."""

from __future__ import annotations

from benchmarks.commands.report import report
from benchmarks.commands.run import run
from benchmarks.commands.tune import tune
from tritonkit.system.console import application

app = application("Measure a served model, and tune it: write records and show reports.")

app.command("run")(run)
app.command("report")(report)
app.command("tune")(tune)
