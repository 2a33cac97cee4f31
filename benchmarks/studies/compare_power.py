"""Measure how often `bench compare` is right: the same model twice, and the same model with a planted slowdown.

A Triton from the pip wheel serves one network three times in Triton's Python backend with ONNX Runtime; one of them
sleeps after each execution for a share of the time that it took. Each try measures all three in turns in one run, as
`bench run --against` does, or with `--apart` one after the other, each with its limit.

Exits with 1 if fewer than 19 of 20 tries of the same model are `no change`, or fewer than 19 of 20 of the slowed one
are a `regression`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.level import Timing
from benchmarks.load.options import concurrency_levels
from benchmarks.records.compare import RecordComparison, compare
from benchmarks.records.record import Record, write_record
from benchmarks.run import run
from benchmarks.scenarios import Scenario
from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import publish_network, serve
from benchmarks.studies.study import Result, command
from benchmarks.target import BenchmarkPlan
from tritonkit.runtimes.formats import ONNX

USUAL, SAME, SLOWED = "usual", "same", "slowed"
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
    apart: Annotated[bool, typer.Option("--apart", help="Measure each model in a run of its own.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the records in this folder.")] = None,
) -> Result:
    """Measure the records of each try, and count the verdicts."""
    same, slow = [], []
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary) / "repository"
        artifact = write_repository(repository, model, slowdown)
        with serve(repository, USUAL, SAME, SLOWED) as triton:
            plans = [
                BenchmarkPlan(
                    model=name,
                    url=triton.options.grpc_url,
                    scenario=Scenario("closed", tuple(map(ClosedLoop, concurrency_levels(concurrency)))),
                    repository=repository,
                    artifact=artifact if apart else None,
                    timing=Timing(window_s, max_windows),
                )
                for name in (USUAL, SAME, SLOWED)
            ]
            for number in track(range(tries), "measuring"):
                usual, again, slowed = measure_models(plans, apart)
                same.append(compare(usual, again, tolerance))
                slow.append(compare(usual, slowed, tolerance))
                if keep:
                    for record in (usual, again, slowed):
                        write_record(keep / f"{number:02}-{record.subject.model}.json", record)
    right = {
        "the same model: no change": sum(comparison.verdict == "no change" for comparison in same),
        "the slowed model: regression": sum(comparison.verdict == "regression" for comparison in slow),
    }
    return Result(
        {
            "model": model,
            "tries": tries,
            "slowdown": slowdown,
            "tolerance": tolerance,
            "concurrency": concurrency,
            "window_s": window_s,
            "max_windows": max_windows,
            "apart": apart,
            "right": right,
            "rows": {SAME: [_rows(each) for each in same], SLOWED: [_rows(each) for each in slow]},
        },
        {f"{words} in {count} of {tries}": count >= NEEDED * tries for words, count in right.items()},
        hidden=("rows",),
    )


def measure_models(plans: Sequence[BenchmarkPlan], apart: bool) -> list[Record]:
    """Return a record of each model, measured in turns in one run, or in a run of its own."""
    runs = [[plan] for plan in plans] if apart else [plans]
    return [record for each in runs for record in run(each, lambda text, finished: None)]


def write_repository(repository: Path, model: str, slowdown: float) -> Path:
    """Publish a network, and write its models in the Python backend; return the artifact of the limit."""
    options = {"onnx": "fp32", "kind": "cpu", "instances": 1, "encoded": False, "force": True, "repair": False}
    publish_network(calibrated_network(model), repository, USUAL, 1, **options)
    for name in (SAME, SLOWED):
        shutil.copytree(repository / USUAL, repository / name)
    for name, share in ((USUAL, 0.0), (SAME, 0.0), (SLOWED, slowdown)):
        config = repository / name / "config.pbtxt"
        text = config.read_text().replace(f'name: "{USUAL}"', f'name: "{name}"')
        text = text.replace('backend: "onnxruntime"', 'backend: "python"')
        config.write_text(f'{text}\nparameters {{ key: "slowdown" value {{ string_value: "{share}" }} }}\n')
        (repository / name / "1" / "model.py").write_text(PYTHON_MODEL)
    return repository / USUAL / "1" / ONNX.file


def _rows(comparison: RecordComparison) -> dict[str, Any]:
    rows = [
        {"load": row.load, "metric": row.metric, "interval": [row.low, row.high], "verdict": row.verdict}
        for row in comparison.rows
    ]
    machine = comparison.machine and comparison.machine.model_dump()
    return {"verdict": comparison.verdict, "machine": machine, "rows": rows}


if __name__ == "__main__":
    command(measure)()
