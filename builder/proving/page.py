"""A verdict as one self-contained page: no address in it is fetched, so it works offline and as an attachment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from builder.proving.pictured import Answers, Pictured, pictured
from builder.proving.verdict import OF_TRAINING, Verdict
from model import pages
from model.comparison import NEGLIGIBLE, PROBES, Limits
from model.files import atomic_write

VERDICT_PAGE = "verdict.html"
_TEMPLATE = "verdict.html.jinja"
_DECADES_BELOW, _DECADES_ABOVE = 6, 1
"""Bars of errors are drawn on a scale of so many powers of ten around the limit."""
LIMIT_AT = 100 * _DECADES_BELOW / (_DECADES_BELOW + _DECADES_ABOVE)
"""Where the limit stands on that scale, in percent of its width."""
_NEAR = 0.5
"""From this share of the limit on, a bar is amber."""

State = Literal["passed", "repaired", "failed", "forced"]

HEADLINES: dict[State, str] = {
    "passed": "gives the answers of its checkpoint",
    "repaired": "gives the answers of its checkpoint, after repair",
    "failed": "does not give the answers of its checkpoint",
    "forced": "was published although it does not give the answers of its checkpoint",
}
WAYS = {
    "other order": "the same images, back to front",
    "other colours": "red, green and blue dimmed differently",
    PROBES: "synthetic: flat, noisy, harsh, very dark and very bright pictures",
    OF_TRAINING: "the checkpoint now, and when it was trained",
}


class Bar(NamedTuple):
    """An error against its limit."""

    value: float
    percent: float
    """How far the bar reaches; `LIMIT_AT` is the limit."""
    grade: Literal["good", "near", "bad"]


class Figure(NamedTuple):
    """A metric of the checkpoint and of the artifact."""

    name: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """Below 0 where something is lost."""
        return self.after - self.before


class Quality(NamedTuple):
    """Figures on one set of pictures; those of single classes apart, the most changed first."""

    measured_on: str
    whole: list[Figure]
    by_class: list[Figure]


def write_page(
    path: Path, name: str, verdict: Verdict, answers: Answers | None = None, facts: Mapping[str, str] | None = None
) -> None:
    """Write the page of a verdict, whole or not at all.

    name: the model's. answers: what both said about the images, to be shown. facts: more to be told of the artifact,
    such as its source, by what it is.
    """
    with atomic_write(path) as beside:
        beside.write_text(page_of(name, verdict, answers, facts), encoding="utf-8")


def page_of(name: str, verdict: Verdict, answers: Answers | None = None, facts: Mapping[str, str] | None = None) -> str:
    """The page's HTML."""
    shown = pictured(answers, verdict.limits) if answers is not None else None
    template = pages.templates(Path(__file__).parent).get_template(_TEMPLATE)
    return template.render(
        name=name,
        verdict=verdict,
        state=state_of(verdict),
        headlines=HEADLINES,
        headline_facts=_headline_facts(verdict),
        ways=WAYS,
        of_training=OF_TRAINING,
        negligible=NEGLIGIBLE,
        has_errors=_has_errors(verdict),
        sizes=verdict.sizes,
        probes=PROBES,
        probe_limits=verdict.limits.of_probes(),
        bar=bar,
        limit_at=LIMIT_AT,
        quality=qualities(verdict),
        shown=shown,
        strip=_strip(shown, verdict.limits) if shown is not None else [],
        facts=facts or {},
    )


def state_of(verdict: Verdict) -> State:
    """In one word what came of it."""
    if verdict.forced:
        return "forced"
    if not verdict.passed:
        return "failed"
    failed_before = any(not tried.passed for tried in verdict.tries)
    return "repaired" if failed_before or verdict.asked not in (None, verdict.precision) else "passed"


def bar(value: float, limit: float) -> Bar:
    """A bar on a scale of powers of ten; what is no number counts as beyond all of them."""
    if not value <= limit:
        grade: Literal["good", "near", "bad"] = "bad"
    else:
        grade = "near" if limit and value > _NEAR * limit else "good"
    if value == 0 or limit == math.inf:
        return Bar(value, 0, grade)
    if not math.isfinite(value) or limit <= 0:
        return Bar(value, 100, grade)
    decades = math.log10(value / limit) + _DECADES_BELOW
    return Bar(value, min(100, max(1, 100 * decades / (_DECADES_BELOW + _DECADES_ABOVE))), grade)


def qualities(verdict: Verdict) -> list[Quality]:
    """The figures of a verdict, the checkpoint's beside the artifact's."""
    found = []
    for key, before in verdict.quality.items():
        kind, _, where = key.partition(" on ")
        after = verdict.quality.get(key.replace("checkpoint", "artifact", 1), {})
        if kind != "checkpoint":
            continue
        figures = [Figure(name, value, after[name]) for name, value in before.items() if name in after]
        whole = [figure for figure in figures if "/" not in figure.name]
        by_class = sorted((figure for figure in figures if "/" in figure.name), key=lambda figure: figure.change)
        found.append(Quality(where or verdict.images, whole, by_class))
    return found


def _headline_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """The figures that stand at the top, each with what it is."""
    if not verdict.of_artifact:
        return []
    worst = max(verdict.of_artifact, key=lambda comparison: comparison.max_abs)
    kept = min(comparison.decisions_kept for comparison in verdict.of_artifact)
    told = [(f"{kept:.1%}".replace(".0%", "%"), f"decisions kept, of {verdict.limits.decisions:.0%} needed")]
    if _has_errors(verdict):
        told.append((f"{worst.max_abs:.1e}", f"largest error, limit {verdict.limits.max_abs:g}"))
    if verdict.relative is not None:
        told.append((f"{verdict.relative:.1e}", f"relative error, limit {verdict.limits.relative:g}"))
    return [*told, (str(worst.images), f"images, at batch {', '.join(map(str, verdict.sizes))}")]


def _has_errors(verdict: Verdict) -> bool:
    """Without floating-point outputs there is no error to tell of."""
    return any(comparison.max_abs or comparison.relative for comparison in verdict.comparisons)


def _strip(shown: Pictured, limits: Limits) -> list[tuple[int, Bar, bool]]:
    """Every image's error as a bar: its number, the bar, and whether its answer changed."""
    if shown.measure != "error":
        return []
    return [(n + 1, bar(float(value), limits.max_abs), n in shown.lost) for n, value in enumerate(shown.distances)]
