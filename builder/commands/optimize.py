"""The command `builder optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.optimization.request import OptimizeRequest
from tritonkit.errors import CheckFailedError
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, table

if TYPE_CHECKING:
    from tritonkit.repository.optimization import Candidate, Optimization


@reports_errors
@options_of(OptimizeRequest)
def optimize(request: OptimizeRequest, as_json: JsonOption = False) -> None:
    """Publish the format and precision that is best as served on this machine.

    Builds and verifies every format and precision that this machine can run, measures those that pass their verdict
    with one Triton, in turns, and publishes the best as the next version. Exit 1 if none can be chosen; nothing is
    published then.

    Examples:

    * builder optimize runs/digits/1/best.safetensors --target latency

    * builder optimize runs/digits/1/best.safetensors --target throughput --p99-ms 50 --data labelled/

    * builder optimize timm:resnet18 --target throughput --formats onnx,openvino:bf16 --html choice.html
    """
    from builder.optimization.run import optimize as run_optimize
    from tritonkit.repository.optimization import Optimization

    try:
        with progress("reading the source") as report:
            optimized = run_optimize(request, report)
    except CheckFailedError as error:
        if isinstance(error.document, Optimization) and not as_json:
            _print_candidates(error.document)
        raise
    if as_json:
        print_json(optimized)
        return
    _print_candidates(optimized.optimization)
    for warning in (*optimized.optimization.notes, *optimized.published.warnings):
        print_text(f"warning: {warning}")
    print_text(f"chosen: {optimized.optimization.chosen}: {optimized.optimization.reason}")
    if request.html is not None:
        print_text(f"page: {request.html}")
    if optimized.published.retention is not None:
        print_text(optimized.published.retention.summary())
    print_text(f"published: {optimized.published.artifact}")
    if optimized.published.served:
        print_text(f"Load it into a running server with: server reload {' '.join(optimized.published.models)}")


def _print_candidates(optimization: Optimization) -> None:
    header = ["candidate", "verdict", "error", "relative", "images/s", "p50 ms", "p99 ms", "in flight", "MB", ""]
    metric = next((name for candidate in optimization.candidates for name in candidate.quality), None)
    if metric is not None:
        header.insert(4, metric)
    rows = []
    for candidate in optimization.candidates:
        row = _row(candidate, optimization)
        if metric is not None:
            row.insert(4, f"{candidate.quality[metric]:+.4f}" if metric in candidate.quality else "")
        rows.append(row)
    table(header, rows)


def _row(candidate: Candidate, optimization: Optimization) -> list[str]:
    from builder.optimization.choice import shown_load

    load = shown_load(candidate, optimization)
    figures = [""] * 4
    if load is not None:
        figures = [*(f"{value:.1f}" for value in (load.images_per_s, load.p50_ms, load.p99_ms)), str(load.concurrency)]
    return [
        candidate.name,
        candidate.verdict or "none",
        "" if candidate.max_abs is None else f"{candidate.max_abs:.1e}",
        "" if candidate.relative is None else f"{candidate.relative:.1e}",
        *figures,
        "" if candidate.bytes is None else f"{candidate.bytes / 1e6:.1f}",
        "chosen" if candidate.name == optimization.chosen else candidate.excluded or "",
    ]
