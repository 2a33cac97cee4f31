"""Compare what `builder optimize` chooses with what a longer measurement of all its candidates shows.

For each model, the candidates are built once. They are measured as the command does by default, and again with longer
windows; then the choice is published. A third model is planted: all its logits have a large common offset, which
changes no probability, but bf16 cannot represent their differences. Its verdict in bf16 must fail, so that another
candidate is published although bf16 would be the fastest; a CPU without bf16 has no such candidate. Weights are random
and calibrated on photographs. Exits with 1 if a choice is slower than the fastest candidate of the longer measurement
by more than noise, or failed its verdict.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.study import Result, command
from builder.optimization.choice import is_equally_fast, rate, speed
from builder.optimization.request import OptimizeRequest
from builder.optimization.run import build_candidates, measure_candidates, optimize, publish_candidate, targets_here
from builder.plan import prepare, source_of
from tritonkit.networks.backbones import head_of
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.optimization import Optimization
from tritonkit.repository.verdict import Verdict

OFFSET = 300.0
"""Of all logits of the planted model: the next bf16 number after it is 302."""
PLANTED_FORMATS = ("onnx:fp32", "openvino:bf16")


def measure(
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME:TARGET", help="A timm architecture, and the target.")
    ] = None,
    formats: str = "onnx,openvino",
    max_batch: int = 8,
    full_rounds: int = 3,
    full_window_s: float = 1.0,
) -> Result:
    """Optimize each model, measure its candidates for longer, and optimize the planted model."""
    cases = [text.split(":") for text in models or ("resnet18:throughput", "efficientnet_b0:latency")]
    results: dict[str, Any] = {}
    checks: dict[str, bool] = {}
    options = {"formats": formats, "max_batch": max_batch, "encoded": False}
    for name, target in cases:
        request = OptimizeRequest(source=name, target=target, **options)
        short, full, verdict = choose_twice(request, {"rounds": full_rounds, "window_s": full_window_s})
        results[f"{name} {target}"] = outcome = compare(short, full)
        checks |= {
            f"{name}: chose {short.chosen} for {target}, which has {outcome['ratio']} of the speed of "
            f"{outcome['fastest']}, the fastest of the longer measurement": outcome["same"] or outcome["within_noise"],
            f"{name}: the verdict of the published version passed": verdict.passed,
        }
    planted = optimize_planted(max_batch)
    (bf16,) = [candidate for candidate in planted.candidates if candidate.name == "openvino bf16"]
    reason = "failed" if bf16.verdict == "FAILED" else bf16.excluded
    checks[f"planted: onnx fp32 was published. openvino bf16: {reason}"] = (
        bf16.verdict != "passed" and planted.chosen == "onnx fp32"
    )
    return Result(
        {"formats": formats, "max_batch": max_batch, "models": results, "planted": summary(planted)},
        checks,
        packages=("torch", "timm", "onnxruntime", "openvino"),
    )


def choose_twice(request: OptimizeRequest, longer: dict[str, Any]) -> tuple[Optimization, Optimization, Verdict]:
    """Build the candidates of a network once, measure them by default and with longer settings, publish the choice.

    Returns both measurements and the verdict of the version that was published.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, repository = Path(folder) / "network.safetensors", Path(folder) / "repository"
        save_network(checkpoint, calibrated_network(str(request.source)))
        request = request.model_copy(update={"source": checkpoint, "repository": repository})
        export = request.export_request()
        with prepare(export, source_of(export), report=lambda step: print(step, flush=True)) as prepared:
            candidates, built = build_candidates(request, prepared, targets_here(request))
            short = measure_candidates(request, prepared, candidates, built)
            full = measure_candidates(request.model_copy(update=longer), prepared, candidates, built)
            published = publish_candidate(prepared, built[str(short.chosen)], short)
        return short, full, published.verdict


def compare(short: Optimization, full: Optimization) -> dict[str, Any]:
    """Compare the choice of the short measurement with the fastest candidate of the longer one."""
    rated = {one.candidate.name: one for one in rate(full.candidates, full.target)}
    fastest = max(rated.values(), key=lambda one: speed(one.load, full.target))
    chosen = rated[str(short.chosen)]
    ratio = speed(chosen.load, full.target) / speed(fastest.load, full.target)
    return {
        "chosen": short.chosen,
        "reason": short.reason,
        "full_choice": full.chosen,
        "fastest": fastest.candidate.name,
        "ratio": round(ratio, 3),
        "same": short.chosen == full.chosen,
        "within_noise": is_equally_fast(chosen.load, fastest.load, full.target),
        "short": summary(short),
        "full": summary(full),
    }


def summary(record: Optimization) -> dict[str, Any]:
    """Return the candidates with their figures, and why others were excluded."""
    keep = {"verdict", "excluded", "max_abs", "relative", "bytes", "loads"}
    return {
        "chosen": record.chosen,
        "window_s": record.window_s,
        "candidates": {candidate.name: candidate.model_dump(include=keep) for candidate in record.candidates},
    }


def optimize_planted(max_batch: int) -> Optimization:
    """Optimize a ResNet-18 whose logits have a large common offset."""
    network = calibrated_network("resnet18")
    add_offset(network)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "planted.safetensors"
        save_network(checkpoint, network)
        request = OptimizeRequest(
            source=checkpoint,
            target="throughput",
            formats=PLANTED_FORMATS,
            max_batch=max_batch,
            repository=Path(folder) / "repository",
            encoded=False,
            rounds=1,
        )
        return optimize(request).optimization


def add_offset(network: Network) -> None:
    """Add the offset to all logits, in place."""
    layer = [module for module in head_of(network.backbone).modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        layer.bias.add_(OFFSET)


if __name__ == "__main__":
    command(measure)()
