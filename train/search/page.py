"""Renders the page about a search."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from train.search.charts import curves_figure, importance_figure, values_figure
from train.search.result import SearchResult
from train.search.space import TrialSpace, value_text
from tritonkit import pages
from tritonkit.pages.figures import Chart, plotly_script

_TEMPLATE = "search_page.html.jinja"
_SAMPLERS = {
    "tpe": "values near the best so far, by TPE",
    "random": "random values",
    "grid": "each combination once",
}
_PRUNERS = {
    "median": "a trial below the median of the others is stopped",
    "hyperband": "most trials are stopped after few epochs, by Hyperband",
    "none": "no trial is stopped early",
}


def page_html(space: TrialSpace, result: SearchResult, config: str) -> str:
    """Return the page as HTML. config: the best configuration as YAML, empty if there is none."""
    counts = Counter(trial.state for trial in result.trials)
    return (
        pages.templates(Path(__file__).parent)
        .get_template(_TEMPLATE)
        .render(
            result=result,
            name=space.config.name,
            keys=list(space.search.parameters),
            counts=", ".join(f"{count} {state}" for state, count in counts.items()),
            sampler=_SAMPLERS[space.search.sampler],
            pruner=_PRUNERS[space.search.pruner],
            charts=_charts(space, result),
            config=config,
            value_text=value_text,
            plotly=plotly_script(),
        )
    )


def _charts(space: TrialSpace, result: SearchResult) -> list[Chart]:
    charts = [
        Chart(
            "Curves of all trials",
            f"{result.metric} after each epoch. Grey: stopped early, or not at the end.",
            curves_figure(result),
        )
    ]
    if result.importance:
        charts.append(
            Chart(
                "Importance of the keys",
                "How much each key separates the better trials from the others, by PED-ANOVA. Rough for few trials.",
                importance_figure(result.importance),
            )
        )
    if result.best is not None:
        charts.append(
            Chart(
                "Values of each trial",
                "One line down for each trial: its value of each key, and at the bottom its result. The stronger, the "
                "better; orange is the best; dotted was stopped early.",
                values_figure(result, space.search.parameters),
            )
        )
    return charts
