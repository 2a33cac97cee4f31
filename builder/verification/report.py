"""Write a verdict as one self-contained HTML page: it loads nothing, so it works offline and as an attachment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from builder.verification.report_images import ReportAnswers, report_images
from tritonkit import pages
from tritonkit.comparison import NEGLIGIBLE, PROBES
from tritonkit.repository.verdict import TRAINING_COMPARISON, Verdict
from tritonkit.system.files import atomic_write

_TEMPLATE = "report.html.jinja"
_DECADES_BELOW, _DECADES_ABOVE = 6, 1
"""Error bars have a logarithmic scale with this many decades below and above the limit."""
LIMIT_PERCENT = 100 * _DECADES_BELOW / (_DECADES_BELOW + _DECADES_ABOVE)
"""The position of the limit on that scale, in percent of its width."""
_NEAR_LIMIT = 0.5
"""From this share of the limit, a bar is amber."""

State = Literal["passed", "repaired", "failed", "forced"]

HEADLINES: dict[State, str] = {
    "passed": "gives the outputs of its checkpoint",
    "repaired": "gives the outputs of its checkpoint, after a fallback",
    "failed": "does not give the outputs of its checkpoint",
    "forced": "was published with --force although it does not give the outputs of its checkpoint",
}
COMPARISON_NOTES = {
    "other order": "the same images in reverse order",
    "other colours": "red, green and blue dimmed differently",
    PROBES: "synthetic images: flat, noisy, high contrast, very dark and very bright",
    TRAINING_COMPARISON: "the checkpoint now, compared with the outputs recorded in training",
}


class Bar(NamedTuple):
    """An error drawn relative to its limit."""

    value: float
    percent: float
    """The length of the bar; the limit is at `LIMIT_PERCENT`."""
    grade: Literal["good", "near", "bad"]


class MetricChange(NamedTuple):
    """A metric of the checkpoint and of the artifact."""

    name: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """Negative where the artifact is worse."""
        return self.after - self.before


class QualityTable(NamedTuple):
    """Metrics on one set of images: overall, and by class with the largest loss first."""

    measured_on: str
    overall: list[MetricChange]
    by_class: list[MetricChange]


def write_page(
    path: Path,
    name: str,
    verdict: Verdict,
    answers: ReportAnswers | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page of a verdict atomically.

    name: the model's name. answers: images with the outputs of both, to show. facts: further facts about the
    artifact, such as its source, by title.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(render_page(name, verdict, answers, facts), encoding="utf-8")


def render_page(
    name: str, verdict: Verdict, answers: ReportAnswers | None = None, facts: Mapping[str, str] | None = None
) -> str:
    """Render the page of a verdict as HTML; parameters as in `write_page`."""
    shown = report_images(answers, verdict.limits) if answers is not None else None
    strip: list[tuple[int, Bar, bool]] = []  # the number of each image, its error, and whether its decision changed
    if shown is not None and shown.measure == "error":
        for index, error in enumerate(shown.distances):
            strip.append((index + 1, bar(float(error), verdict.limits.max_abs), index in shown.lost))
    template = pages.templates(Path(__file__).parent).get_template(_TEMPLATE)
    return template.render(
        name=name,
        verdict=verdict,
        state=state_of(verdict),
        headlines=HEADLINES,
        headline_facts=_headline_facts(verdict),
        comparison_notes=COMPARISON_NOTES,
        training_comparison=TRAINING_COMPARISON,
        negligible=NEGLIGIBLE,
        has_errors=_has_errors(verdict),
        probes=PROBES,
        bar=bar,
        limit_at=LIMIT_PERCENT,
        quality=quality_tables(verdict),
        shown=shown,
        strip=strip,
        facts=facts or {},
    )


def state_of(verdict: Verdict) -> State:
    """The result of a verdict in one word."""
    if verdict.forced:
        return "forced"
    if not verdict.passed:
        return "failed"
    has_failed_attempt = any(not attempt.passed for attempt in verdict.tries)
    return "repaired" if has_failed_attempt or verdict.asked not in (None, verdict.precision) else "passed"


def bar(value: float, limit: float) -> Bar:
    """Create a bar on the logarithmic scale; NaN and infinity fill the whole scale."""
    if not value <= limit:
        grade: Literal["good", "near", "bad"] = "bad"
    else:
        grade = "near" if limit and value > _NEAR_LIMIT * limit else "good"
    if value == 0 or limit == math.inf:
        return Bar(value, 0, grade)
    if not math.isfinite(value) or limit <= 0:
        return Bar(value, 100, grade)
    decades = math.log10(value / limit) + _DECADES_BELOW
    return Bar(value, min(100, max(1, 100 * decades / (_DECADES_BELOW + _DECADES_ABOVE))), grade)


def quality_tables(verdict: Verdict) -> list[QualityTable]:
    """Pair the checkpoint's metrics with the artifact's, one table for each set of images."""
    tables = []
    for key, before in verdict.quality.items():
        kind, _, images = key.partition(" on ")
        after = verdict.quality.get(key.replace("checkpoint", "artifact", 1), {})
        if kind != "checkpoint":
            continue
        changes = [MetricChange(name, value, after[name]) for name, value in before.items() if name in after]
        overall = [change for change in changes if "/" not in change.name]
        by_class = sorted((change for change in changes if "/" in change.name), key=lambda change: change.change)
        tables.append(QualityTable(images or verdict.images, overall, by_class))
    return tables


def _headline_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its description."""
    if not verdict.artifact_comparisons:
        return []
    worst = max(verdict.artifact_comparisons, key=lambda comparison: comparison.max_abs)
    kept = min(comparison.decisions_kept for comparison in verdict.artifact_comparisons)
    facts = [(f"{kept:.1%}".replace(".0%", "%"), f"decisions kept, of {verdict.limits.decisions:.0%} needed")]
    if _has_errors(verdict):
        facts.append((f"{worst.max_abs:.1e}", f"largest error, limit {verdict.limits.max_abs:g}"))
    if verdict.relative is not None:
        facts.append((f"{verdict.relative:.1e}", f"relative error, limit {verdict.limits.relative:g}"))
    return [*facts, (str(worst.images), f"images, at batch {', '.join(map(str, verdict.sizes))}")]


def _has_errors(verdict: Verdict) -> bool:
    """Whether there are errors to show: outputs without floating-point values have none."""
    return any(comparison.max_abs or comparison.relative for comparison in verdict.comparisons)
