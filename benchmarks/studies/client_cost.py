"""Measure CPU and wall time of `client infer` through Triton against inference in one process and a plain client loop.

Three methods process the same JPEGs of about 500 x 400 pixels, cut from the photographs of `make data`, in turns:
`client infer` with --output through a Triton from the pip wheel; decoding, preprocessing and ONNX Runtime in one
process at its best batch size; and a loop over `tritonclient`, one image in each request, fp32, over HTTP (both
baselines are in benchmarks/studies/client_baselines.py). CPU time is the sum of the client process and Triton with all
its children. The time of `client infer` includes the start of its process; the baselines exclude imports and opening
the model.
Exits with 1 if `client infer` takes more than 1.25 times the CPU time of the single process, or the loop takes less
than 2 times the wall time of `client infer`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import PHOTOS, LocalTriton, publish_network, random_photos, serve
from benchmarks.studies.study import Result, command, in_turns, medians, run_process
from tritonkit.runtimes.formats import ONNX
from tritonkit.spec import Frozen

LIMITS = {"cpu": 1.25, "wall": 2.0}
"""The largest CPU time of `client infer`, and the smallest wall time of the plain loop, as ratios."""
CLIENT_INFER, IN_PROCESS, PLAIN = "client infer", "in process", "plain loop"
SERVED, SERVED_PLAIN = "network", "plain"
_ROOT = Path(__file__).parents[2]


class ClientCost(Frozen):
    """Time of one run over all images, in seconds."""

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    load_average: float
    """Load average of the machine over the minute before the run."""
    best: str = ""
    """Batch size and thread count with the least CPU time; in-process method only."""

    @property
    def cpu_s(self) -> float:
        """CPU time of client and server."""
        return self.client_cpu_s + self.server_cpu_s


def measure(
    model: Annotated[str, typer.Option(help="A timm architecture at 224 x 224.")] = "mobilenetv2_100",
    pictures: int = 2000,
    rounds: int = 3,
    max_batch: int = 32,
    repository: Annotated[Path | None, typer.Option(help="An existing repository with both models.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="More arguments for `client infer`; repeatable.")] = None,
) -> Result:
    """Run the three methods, and compare the medians."""
    picture_folder = write_pictures(_ROOT / ".cache" / "client_cost", pictures)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repository = repository or write_repository(folder, model, max_batch)
        with serve(repository, SERVED, SERVED_PLAIN) as triton:
            baseline = [sys.executable, "-m", "benchmarks.studies.client_baselines"]
            client = [Path(sys.executable).with_name("client"), "infer", picture_folder, "--model", SERVED]
            client += ["--url", triton.options.grpc_url, "--output", folder / "answers.jsonl", "--overwrite"]
            artifact, http = repository / SERVED / "1" / ONNX.file, triton.options.http_url.removeprefix("http://")
            commands: dict[str, list[object]] = {
                IN_PROCESS: [*baseline, "in-process", artifact, picture_folder, pictures],
                CLIENT_INFER: [*client, *(option or [])],
                PLAIN: [*baseline, "plain", http, SERVED_PLAIN, picture_folder, pictures],
            }
            methods = {name: partial(run_method, name, words, triton) for name, words in commands.items()}
            costs = in_turns(methods, rounds)
    summary = summarize(costs)
    cpu, wall = summary["ratio"].values()
    return Result(
        {
            "model": model,
            "pictures": pictures,
            "limits": LIMITS,
            "rounds": {name: [cost.model_dump() for cost in method_costs] for name, method_costs in costs.items()},
            **summary,
        },
        {
            f"CPU time of client infer: {cpu} of in process, at most {LIMITS['cpu']}": cpu <= LIMITS["cpu"],
            f"wall time of the plain loop: {wall} of client infer, at least {LIMITS['wall']}": wall >= LIMITS["wall"],
        },
        hidden=("rounds",),
        packages=("numpy", "onnxruntime", "pillow", "tritonclient"),
    )


def run_method(method: str, words: Sequence[object], triton: LocalTriton) -> ClientCost:
    """Run one method and return its cost. Raises TritonkitError with its output if it fails."""
    server_start_s = triton.cpu_s()
    cost, output = run_process(words, cwd=_ROOT)
    server_s = triton.cpu_s() - server_start_s
    reported = {} if method == CLIENT_INFER else json.loads(output)
    return ClientCost(
        wall_s=round(reported.get("wall_s", cost.seconds), 3),
        client_cpu_s=round(reported.get("cpu_s", cost.cpu_seconds), 3),
        server_cpu_s=0.0 if method == IN_PROCESS else round(server_s, 3),
        load_average=cost.load_average,
        best=reported.get("best", ""),
    )


def summarize(costs: dict[str, list[ClientCost]]) -> dict[str, dict[str, float]]:
    """Return the medians of the rounds in seconds, and both ratios."""
    wall = medians({method: [cost.wall_s for cost in method_costs] for method, method_costs in costs.items()})
    cpu = medians({method: [cost.cpu_s for cost in method_costs] for method, method_costs in costs.items()})
    ratio = {
        "cpu, client infer to in process": round(cpu[CLIENT_INFER] / cpu[IN_PROCESS], 3),
        "wall, plain loop to client infer": round(wall[PLAIN] / wall[CLIENT_INFER], 3),
    }
    return {"wall_s": wall, "cpu_s": cpu, "ratio": ratio}


def write_pictures(folder: Path, count: int, photos: Path = PHOTOS) -> Path:
    """Write JPEGs of about 500 x 400 pixels, each a random crop of a photograph; reuse them if they exist."""
    picture_folder = folder / f"pictures-{count}"
    if picture_folder.is_dir():
        return picture_folder
    partial_folder = picture_folder.with_name(f".{picture_folder.name}.{os.getpid()}")
    for number, (photo, rng) in zip(range(count), random_photos(photos), strict=False):
        partial_folder.mkdir(parents=True, exist_ok=True)
        share = rng.uniform(0.7, 1.0)
        height = min(photo.height, photo.width * 0.8) * share
        left, top = rng.uniform(0, photo.width - height * 1.25), rng.uniform(0, photo.height - height)
        size = rng.randint(470, 530), rng.randint(380, 420)
        crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + height * 1.25, top + height))
        picture = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else crop
        picture.save(partial_folder / f"{number:05}.jpg", quality=90)
    partial_folder.rename(picture_folder)
    return picture_folder


def write_repository(folder: Path, architecture: str, max_batch: int) -> Path:
    """Publish the network with tritonkit, and also write it as a plain graph that takes normalised fp32 images."""
    repository = folder / "repository"
    network = calibrated_network(architecture)
    publish_network(network, repository, SERVED, max_batch)
    version_folder = repository / SERVED_PLAIN / "1"
    version_folder.mkdir(parents=True)
    torch.onnx.export(
        torch.nn.Sequential(network.backbone, torch.nn.Softmax(dim=1)).eval(),
        (torch.zeros(2, 3, 224, 224),),
        version_folder / ONNX.file,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["input"],
        output_names=["probabilities"],
        verbose=False,
    )
    (repository / SERVED_PLAIN / "config.pbtxt").write_text(
        f'name: "{SERVED_PLAIN}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch}\n'
        'input { name: "input" data_type: TYPE_FP32 dims: [3, 224, 224] }\n'
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{len(network.spec.labels)}] }}\n'
        "dynamic_batching { }\n"
    )
    return repository


if __name__ == "__main__":
    command(measure)()
