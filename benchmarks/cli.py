"""The `bench` command."""

from __future__ import annotations

from benchmarks.commands.report import report
from benchmarks.commands.run import run
from tritonkit.system.console import application

app = application("Measure a served model: write records and show reports.")

app.command("run")(run)
app.command("report")(report)
