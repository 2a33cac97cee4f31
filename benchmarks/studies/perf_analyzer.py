"""Measure how well `bench run` agrees with NVIDIA's perf_analyzer on the same server.

A Triton from the pip wheel serves a network of timm with random weights. Both tools send the same random uint8 image
over gRPC in a closed loop, in turns, each for three windows; perf_analyzer's windows last 1.2 times `--window-s`. Its
binary is that of `scripts/perf_analyzer.sh`. The medians of the rounds are compared.

Exits with 1 if throughput, p50, p90 or p99 of any level differs by more than 5 %.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.load.options import concurrency_levels
from benchmarks.records.perf_analyzer import read_perf_analyzer
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import publish_network, serve
from benchmarks.studies.study import Result, command, in_turns, medians, run_process
from tritonkit.errors import InputError
from tritonkit.images.preprocess import Preprocess

BINARY = Path(__file__).parents[2] / ".cache" / "perf_analyzer" / "perf_analyzer"
METRICS = ("images_per_s", "p50_ms", "p90_ms", "p99_ms")
BOUND = 0.05
WINDOWS = 3
PERF_ANALYZER, BENCH = "perf_analyzer", "bench run"

FigureTable = dict[str, float]
"""By `METRIC at concurrency N`."""


def measure(
    model: Annotated[str, typer.Option(help="A timm architecture.")] = "resnet18",
    rounds: int = 5,
    concurrency: Annotated[str, typer.Option(metavar="N,N,...")] = "1,4,8",
    window_s: float = 5.0,
    max_batch: int = 8,
) -> Result:
    """Run both tools in turns, and compare the medians."""
    if not BINARY.is_file():
        raise InputError(f"{BINARY}: no such file; scripts/perf_analyzer.sh fetches it", code="data.no_perf_analyzer")
    levels = concurrency_levels(concurrency)
    network = calibrated_network(model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = {"onnx": "fp32", "kind": "cpu", "instances": 1, "encoded": False, "force": True, "repair": False}
        publish_network(network, folder / "repository", model, max_batch, **options)
        raw, pictures = write_input(folder, network.spec.preprocess, network.spec.input.name)
        with serve(folder / "repository") as triton:
            url = triton.options.grpc_url
            found = in_turns(
                {
                    PERF_ANALYZER: partial(run_perf_analyzer, model, url, raw, levels, window_s),
                    BENCH: partial(run_bench, model, url, pictures, levels, window_s),
                },
                rounds,
            )
    ratios = compare(found)
    within = {name: abs(ratio - 1) <= BOUND for name, ratio in ratios.items()}
    return Result(
        {
            "model": model,
            "rounds": rounds,
            "window_s": window_s,
            "windows": WINDOWS,
            "bound": BOUND,
            "figures": found,
            "median": {method: _medians(figures) for method, figures in found.items()},
            "ratio, bench run to perf_analyzer": ratios,
        },
        {f"{name}: {ratio} of perf_analyzer's, within {BOUND:.0%}": within[name] for name, ratio in ratios.items()},
        hidden=("figures",),
        packages=("tritonclient", "grpcio"),
    )


def write_input(folder: Path, preprocess: Preprocess, name: str) -> tuple[Path, Path]:
    """Write one random image, raw for perf_analyzer and as PNG for `bench`; return both folders."""
    image = np.random.default_rng(0).integers(0, 256, (preprocess.height, preprocess.width, 3), dtype=np.uint8)
    raw, pictures = folder / "raw", folder / "pictures"
    for each in (raw, pictures):
        each.mkdir()
    image.tofile(raw / name)
    Image.fromarray(image).save(pictures / "random.png")
    return raw, pictures


def run_perf_analyzer(model: str, url: str, raw: Path, levels: Sequence[int], window_s: float) -> FigureTable:
    """Run perf_analyzer once for each level, because its ranges have equal steps."""
    figures: FigureTable = {}
    for level in levels:
        report = raw.with_name("perf_analyzer.csv")
        program = ["env", f"LD_LIBRARY_PATH={BINARY.parent}", BINARY, "-m", model, "-u", url, "-i", "grpc"]
        # Stable whatever it measures: a level that is not stable has no row.
        windows = ["--measurement-interval", round(window_s * 1000), "--max-trials", WINDOWS, "-s", 1000]
        run_process([*program, "--concurrency-range", level, "--input-data", raw, *windows, "-f", report])
        (row,) = read_perf_analyzer(report).levels
        figures |= {f"{metric} at {row.load}": getattr(row, metric) for metric in METRICS}
    return figures


def run_bench(model: str, url: str, pictures: Path, levels: Sequence[int], window_s: float) -> FigureTable:
    """Run `bench run` once for all levels, without a limit."""
    program = [Path(sys.executable).with_name("bench"), "run", model, "--url", url, "--json"]
    load = ["--concurrency", ",".join(map(str, levels)), "--window-s", window_s, "--max-windows", WINDOWS]
    _, output = run_process([*program, *load, "--images", pictures, "--repository", pictures])
    return {
        f"{metric} at concurrency {level['concurrency']}": level[metric]
        for level in json.loads(output)["levels"]
        for metric in METRICS
    }


def compare(found: Mapping[str, Sequence[FigureTable]]) -> FigureTable:
    """Return the ratio of the medians of each figure, `bench run` to perf_analyzer."""
    bench, perf_analyzer = _medians(found[BENCH]), _medians(found[PERF_ANALYZER])
    return {name: round(bench[name] / perf_analyzer[name], 3) for name in perf_analyzer}


def _medians(figures: Sequence[FigureTable]) -> FigureTable:
    return medians({name: [each[name] for each in figures] for name in figures[0]})


if __name__ == "__main__":
    command(measure)()
