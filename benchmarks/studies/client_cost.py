"""Measure CPU and wall time of `client infer` through Triton against inference in one process and a plain client loop.

Three methods process the same JPEGs of about 500 x 400 pixels, cut from the photographs of `make data`, in turns:
`client infer` with --output through a Triton from the pip wheel; decoding, preprocessing and ONNX Runtime in one
process at its best batch size; and a loop over `tritonclient`, one image in each request, fp32, over HTTP. Each run has
a process of its own. CPU time is the sum of that process and Triton with all its children. The time of `client infer`
includes the start of its process; the baselines exclude imports and opening the model.

Exits with 1 if `client infer` takes more than 1.25 times the CPU time of the single process, or the loop takes less
than 2 times the wall time of `client infer`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tritonclient.http as triton_http
import typer
from PIL import Image

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.local_triton import PHOTOS, LocalTriton, publish_network, random_photos, serve
from benchmarks.studies.study import Result, command, in_turns, medians, run_process
from tritonkit.images.picture_files import pictures_below
from tritonkit.images.preprocess import Geometry, ImageArray, load_file
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import Frozen

LIMITS = {"cpu": 1.25, "wall": 2.0}
"""The largest CPU time of `client infer`, and the smallest wall time of the plain loop, as ratios."""
CLIENT_INFER, IN_PROCESS, PLAIN = "client infer", "in process", "plain loop"
SERVED, SERVED_PLAIN = "network", "plain"
_CACHE = Path(__file__).parents[2] / ".cache" / "client_cost"
BATCHES = (1, 4, 8, 16, 32)
SIDE = 224
TUNING_IMAGES = 64
"""Number of images used to choose the batch size and thread count."""


class ClientCost(Frozen):
    """Time of one run over all images, in seconds."""

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float = 0.0
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
    picture_folder = write_pictures(_CACHE, pictures)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repository = repository or write_repository(folder, model, max_batch)
        with serve(repository, SERVED, SERVED_PLAIN) as triton:
            client = [Path(sys.executable).with_name("client"), "infer", picture_folder, "--model", SERVED]
            client += ["--url", triton.options.grpc_url, "--output", folder / "answers.jsonl", "--overwrite"]
            artifact, http = repository / SERVED / "1" / ONNX.file, triton.options.http_url.removeprefix("http://")
            methods: dict[str, Callable[[], ClientCost]] = {
                IN_PROCESS: partial(in_child, run_in_process, artifact, picture_folder),
                CLIENT_INFER: partial(with_server, triton, run_client, [*client, *(option or [])]),
                PLAIN: partial(with_server, triton, in_child, run_plain_loop, http, picture_folder),
            }
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


def with_server(triton: LocalTriton, run: Callable[..., ClientCost], *arguments: object) -> ClientCost:
    """Run a method and add the CPU time of the server."""
    before_s = triton.cpu_s()
    cost = run(*arguments)
    return cost.model_copy(update={"server_cpu_s": round(triton.cpu_s() - before_s, 3)})


def run_client(words: Sequence[object]) -> ClientCost:
    """Run `client infer`. Raises TritonkitError with its output if it fails."""
    cost, _ = run_process(words)
    return ClientCost(wall_s=cost.seconds, client_cpu_s=cost.cpu_seconds, load_average=cost.load_average)


def in_child(run: Callable[..., ClientCost], *arguments: object) -> ClientCost:
    """Run a baseline in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(run, *arguments).result()


def run_in_process(artifact: Path, folder: Path) -> ClientCost:
    """Decode, preprocess and run the model in this process, the lower limit of the cost.

    One thread for each core decodes, with `load_file` of tritonkit. Batch size and thread count of ONNX Runtime are
    those that need the least CPU time.
    """
    cores, paths = len(os.sched_getaffinity(0)), pictures_below(folder)
    runners = {threads: OnnxRuntimeRunner(artifact, threads=threads, spinning=False) for threads in {1, cores}}
    preprocess = runners[1].spec.preprocess
    images = np.stack([load_file(path, preprocess)[0] for path in paths[:TUNING_IMAGES]])

    def min_cpu_s(threads: int, batch: int) -> float:
        def infer_all() -> None:
            for start in range(0, len(images), batch):
                runners[threads].infer(images[start : start + batch])

        infer_all()
        return min(_cost_of(infer_all).cpu_s for _ in range(2))  # disturbances only add time

    threads, batch = min(product(runners, BATCHES), key=lambda setting: min_cpu_s(*setting))

    def loop() -> None:
        with ThreadPoolExecutor(cores) as pool:
            pending: deque[list[Future[tuple[ImageArray, Geometry]]]] = deque()
            for start in range(0, len(paths), batch):
                pending.append([pool.submit(load_file, path, preprocess) for path in paths[start : start + batch]])
                while pending and (len(pending) > 2 or start + batch >= len(paths)):
                    runners[threads].infer(np.stack([image.result()[0] for image in pending.popleft()]))

    return _cost_of(loop).model_copy(update={"best": f"batch {batch}, {threads} threads"})


def run_plain_loop(address: str, folder: Path) -> ClientCost:
    """Run a simple client: for each image Pillow, numpy and one request over HTTP with fp32 [1, 3, 224, 224].

    Images are preprocessed as is usual for ImageNet: short side to 256, centre crop of 224, mean and deviation.
    """
    connection, paths = triton_http.InferenceServerClient(address), pictures_below(folder)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def loop() -> None:
        for path in paths:
            with Image.open(path) as image:
                scale = 256 / min(image.size)
                size = round(image.width * scale), round(image.height * scale)
                resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
            pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32) / 255
            batch = np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None], dtype=np.float32)
            tensor = triton_http.InferInput("input", batch.shape, "FP32")
            tensor.set_data_from_numpy(batch)
            int(connection.infer(SERVED_PLAIN, [tensor]).as_numpy("probabilities").argmax())

    return _cost_of(loop)


def _cost_of(work: Callable[[], None]) -> ClientCost:
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    work()
    return ClientCost(
        wall_s=round(time.perf_counter() - wall, 3),
        client_cpu_s=round(time.process_time() - cpu, 3),
        load_average=round(load, 2),
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
