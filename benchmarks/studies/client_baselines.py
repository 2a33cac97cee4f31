"""The baselines of benchmarks/studies/client_cost.py. Each run measures one loop in its own process.

python -m benchmarks.studies.client_baselines in-process MODEL.onnx FOLDER COUNT
python -m benchmarks.studies.client_baselines plain HOST:PORT MODEL FOLDER COUNT

`in-process` is the lower limit of the cost: the `load_file` of tritonkit with one thread for each core, and ONNX
Runtime in the same process with the batch size and thread count that need the least CPU time. `plain` is a simple
client: for each image Pillow, numpy and one fp32 request over HTTP.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tritonkit.images.picture_files import pictures_below
from tritonkit.images.preprocess import Geometry, ImageArray, load_file

BATCHES = (1, 4, 8, 16, 32)
SIDE = 224
TUNING_IMAGES = 64
"""Number of images used to choose the batch size and thread count."""


def run_in_process(artifact: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Decode, preprocess and run the model in this process; return the time."""
    from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

    cores = len(os.sched_getaffinity(0))
    runners = {threads: OnnxRuntimeRunner(artifact, threads=threads, spinning=False) for threads in {1, cores}}
    preprocess = runners[1].spec.preprocess
    images = np.stack([load_file(path, preprocess)[0] for path in paths[:TUNING_IMAGES]])

    def min_cpu_s(threads: int, batch: int) -> float:
        def infer_all() -> None:
            for start in range(0, len(images), batch):
                runners[threads].infer(images[start : start + batch])

        infer_all()
        return min(_measure(infer_all)["cpu_s"] for _ in range(2))  # disturbances only add time

    threads, batch = min(product(runners, BATCHES), key=lambda setting: min_cpu_s(*setting))

    def loop() -> None:
        with ThreadPoolExecutor(cores) as pool:
            pending: deque[list[Future[tuple[ImageArray, Geometry]]]] = deque()
            for start in range(0, len(paths), batch):
                pending.append([pool.submit(load_file, path, preprocess) for path in paths[start : start + batch]])
                while pending and (len(pending) > 2 or start + batch >= len(paths)):
                    runners[threads].infer(np.stack([image.result()[0] for image in pending.popleft()]))

    return {**_measure(loop), "best": f"batch {batch}, {threads} threads"}


def run_plain_loop(address: str, model: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Run a served model that takes fp32 [N, 3, 224, 224], one image at a time."""
    import tritonclient.http as triton

    connection = triton.InferenceServerClient(address)

    def loop() -> None:
        for path in paths:
            pixels = _preprocess(path)[None]
            tensor = triton.InferInput("input", pixels.shape, "FP32")
            tensor.set_data_from_numpy(pixels)
            int(connection.infer(model, [tensor]).as_numpy("probabilities").argmax())

    return _measure(loop)


def _preprocess(path: Path) -> NDArray[np.float32]:
    """Preprocess as is usual for ImageNet classifiers: short side to 256, centre crop of 224, mean and deviation."""
    with Image.open(path) as image:
        scale = 256 / min(image.size)
        resized = image.convert("RGB").resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
        )
    left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def _measure(work: Callable[[], None]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def main(arguments: Sequence[str]) -> int:
    """Run one loop and print its time."""
    method, *targets, folder, count = arguments
    paths = pictures_below(Path(folder))[: int(count)]
    cost = (
        run_in_process(Path(targets[0]), paths)
        if method == "in-process"
        else run_plain_loop(targets[0], targets[1], paths)
    )
    print(json.dumps(cost))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
