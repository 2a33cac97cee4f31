"""Measure how often `bench compare` is right: the same model twice, and the same model with a planted slowdown.

A Triton from the pip wheel serves one network twice in Triton's Python backend with ONNX Runtime; one of both sleeps
after each execution for a share of the time that it took. `bench run` measures the usual model and the slowed model in
turns, with the limit. Each record of the usual model is compared with the next one of both.

Exits with 1 if fewer than 19 of 20 tries of the same model are `no change`, or fewer than 19 of 20 of the slowed one
are a `regression`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from benchmarks.records.compare import RecordComparison, compare
from benchmarks.records.record import Record, read_record
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import publish_network, serve
from benchmarks.studies.study import Result, command, run_process
from tritonkit.runtimes.formats import ONNX

USUAL, SLOWED = "usual", "slowed"
NEEDED = 19 / 20
PYTHON_MODEL = """
import json
import time
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(graph, options)
        self.slowdown = float(config["parameters"]["slowdown"]["string_value"])

    def execute(self, requests):
        start = time.perf_counter()
        answers = [self.answer(request) for request in requests]
        time.sleep(self.slowdown * (time.perf_counter() - start))
        return answers

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        (probabilities,) = self.session.run(["probabilities"], {"image": images})
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", probabilities)])
"""


def measure(
    model: Annotated[str, typer.Option(help="A timm architecture.")] = "resnet18",
    tries: int = 20,
    slowdown: Annotated[float, typer.Option(help="Share of the time of an execution.")] = 0.15,
    tolerance: float = 0.05,
    concurrency: str = "4",
    window_s: float = 5.0,
    max_windows: int = 10,
    keep: Annotated[Path | None, typer.Option(help="Keep the records in this folder.")] = None,
) -> Result:
    """Measure two records for each try, and count the verdicts."""
    with tempfile.TemporaryDirectory() as temporary:
        repository, folder = Path(temporary) / "repository", keep or Path(temporary)
        artifact = write_repository(repository, model, slowdown)
        load = ["--concurrency", concurrency, "--window-s", window_s, "--max-windows", max_windows]
        with serve(repository, USUAL, SLOWED) as triton:
            common = ["--url", triton.options.grpc_url, "--repository", repository, "--artifact", artifact, *load]
            records = [
                run_bench((USUAL, SLOWED)[number % 2], folder / f"{number:03}.json", common)
                for number in track(range(2 * tries + 1), "measuring")
            ]
    usual, slowed = records[::2], records[1::2]
    same = [compare(old, new, tolerance) for old, new in pairwise(usual)]
    slow = [compare(old, new, tolerance) for old, new in zip(usual, slowed, strict=False)]
    right = {
        f"{USUAL} to {USUAL}: no change": sum(comparison.verdict == "no change" for comparison in same),
        f"{USUAL} to {SLOWED}: regression": sum(comparison.verdict == "regression" for comparison in slow),
    }
    return Result(
        {
            "model": model,
            "tries": tries,
            "slowdown": slowdown,
            "tolerance": tolerance,
            "load": " ".join(map(str, load)),
            "right": right,
            "rows": {USUAL: [_rows(each) for each in same], SLOWED: [_rows(each) for each in slow]},
        },
        {f"{words} in {count} of {tries}": count >= NEEDED * tries for words, count in right.items()},
        hidden=("rows",),
    )


def write_repository(repository: Path, model: str, slowdown: float) -> Path:
    """Publish a network, and write its models in the Python backend; return the artifact of the limit."""
    options = {"onnx": "fp32", "kind": "cpu", "instances": 1, "encoded": False, "force": True, "repair": False}
    publish_network(calibrated_network(model), repository, USUAL, 1, **options)
    shutil.copytree(repository / USUAL, repository / SLOWED)
    for name, share in ((USUAL, 0.0), (SLOWED, slowdown)):
        config = repository / name / "config.pbtxt"
        text = config.read_text().replace(f'name: "{USUAL}"', f'name: "{name}"')
        text = text.replace('backend: "onnxruntime"', 'backend: "python"')
        config.write_text(f'{text}\nparameters {{ key: "slowdown" value {{ string_value: "{share}" }} }}\n')
        (repository / name / "1" / "model.py").write_text(PYTHON_MODEL)
    return repository / USUAL / "1" / ONNX.file


def run_bench(model: str, output: Path, options: Sequence[object]) -> Record:
    """Run `bench run` and return its record."""
    run_process([Path(sys.executable).with_name("bench"), "run", model, "--output", output, *options])
    return read_record(output)


def _rows(comparison: RecordComparison) -> dict[str, Any]:
    rows = [
        {"load": row.load, "metric": row.metric, "interval": [row.low, row.high], "verdict": row.verdict}
        for row in comparison.rows
    ]
    machine = comparison.machine and comparison.machine.model_dump()
    return {"verdict": comparison.verdict, "machine": machine, "rows": rows}


if __name__ == "__main__":
    command(measure)()
