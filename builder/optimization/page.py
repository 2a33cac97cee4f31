"""Write what `builder optimize` measured as one self-contained HTML page: it loads nothing."""

from __future__ import annotations

from pathlib import Path

from builder.optimization.choice import pareto_front, rate, shown_load
from builder.optimization.measurement import MAX_WINDOWS
from builder.optimization.scatter import scatter
from tritonkit import pages
from tritonkit.repository.optimization import Candidate, Optimization
from tritonkit.system.files import atomic_write

_TEMPLATE = "page.html.jinja"
WIDE, NARROW = (760, 400), (330, 340)
"""Width and height of the chart on a desktop and on a phone, in pixels."""


def write_page(path: Path, optimization: Optimization) -> None:
    """Write the page atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_page(optimization), encoding="utf-8")


def render_page(optimization: Optimization) -> str:
    """Render the page as HTML."""
    rated = rate(optimization.candidates, optimization.target, optimization.p99_bound_ms)
    template = pages.templates(Path(__file__).parent).get_template(_TEMPLATE)
    return template.render(
        optimization=optimization,
        facts=_facts(optimization),
        charts={name: scatter(optimization, rated, *size) for name, size in (("wide", WIDE), ("narrow", NARROW))}
        if rated
        else {},
        rows=[(candidate, shown_load(candidate, optimization)) for candidate in optimization.candidates],
        front=[one.candidate.name for one in pareto_front(rated, optimization.target)],
        metrics=list(dict.fromkeys(name for candidate in optimization.candidates for name in candidate.quality))[:1],
        rounds=max((len(load.rounds) for candidate in optimization.candidates for load in candidate.loads), default=0),
        max_windows=MAX_WINDOWS,
        machine=_machine(optimization),
    )


def _facts(optimization: Optimization) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its description."""
    winner = optimization.winner
    load = None if winner is None else shown_load(winner, optimization)
    if winner is None or load is None:
        return []
    facts = [
        (f"{load.images_per_s:.0f}", f"images/s with {load.concurrency} in flight"),
        (f"{load.p50_ms:.1f} ms", "p50"),
        (f"{load.p99_ms:.1f} ms", "p99"),
        ("negligible" if winner.relative is None else f"{winner.relative:.1e}", "relative error"),
        (f"{(winner.bytes or 0) / 1e6:.1f} MB", "model files"),
    ]
    if (ratio := _speed_up(winner, optimization)) is not None:
        facts.insert(1, (f"{ratio:.2f} x", "the speed of onnx fp32"))
    return facts


def _machine(optimization: Optimization) -> list[tuple[str, str]]:
    """What the record of `bench run` says about the machine, each with its title."""
    titles = {"cpu": "CPU", "cores": "Cores", "memory_gib": "Memory, GiB", "gpus": "GPUs", "triton": "Triton"}
    values = {title: optimization.machine.get(key) for key, title in titles.items()}
    return [
        (title, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for title, value in values.items()
        if value
    ]


def _speed_up(winner: Candidate, optimization: Optimization) -> float | None:
    """The winner's speed by that of ONNX in fp32; None if that was not measured, or is the winner."""
    plain = next((candidate for candidate in optimization.candidates if candidate.name == "onnx fp32"), None)
    if plain is None or plain is winner:
        return None
    before, after = shown_load(plain, optimization), shown_load(winner, optimization)
    if before is None or after is None:
        return None
    return (
        after.images_per_s / before.images_per_s
        if optimization.target == "throughput"
        else before.p50_ms / after.p50_ms
    )
