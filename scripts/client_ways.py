"""What `client infer` is measured against: one loop a process, which prints what it took, without imports and opening.

python -m scripts.client_ways in-process MODEL.onnx FOLDER COUNT
python -m scripts.client_ways plain HOST:PORT MODEL FOLDER COUNT

`in-process` is the least that the work can cost: the kit's own `load_file` in as many threads as there are cores, and
ONNX Runtime in the same process at the batch and number of threads that take the least CPU time. `plain` is what one
writes first: for each picture Pillow, numpy, and one request in fp32 over HTTP.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.picture_files import pictures_below
from model.preprocess import Geometry, ImageArray, load_file
from model.runners.base import Runner

BATCHES = (1, 4, 8, 16, 32)
SIDE = 224
TRIED = 64
"""Pictures on which a batch size and a number of threads are tried."""


def in_process(artifact: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Decode, preprocess and answer in this process."""
    runners = {threads: _opened(artifact, threads) for threads in {1, _cores()}}
    how = runners[1].spec.preprocess
    images = np.stack([load_file(path, how)[0] for path in paths[:TRIED]])
    tried = {
        f"batch {batch}, {threads} threads": (_cpu_of(partial(_answer_all, runners[threads], images, batch)), batch)
        for threads in runners
        for batch in BATCHES
    }
    best = min(tried, key=lambda name: tried[name][0])
    batch, threads = tried[best][1], int(best.split()[2])

    def loop() -> None:
        with ThreadPoolExecutor(_cores()) as pool:
            pending: deque[list[Future[tuple[ImageArray, Geometry]]]] = deque()
            for start in range(0, len(paths), batch):
                pending.append([pool.submit(load_file, path, how) for path in paths[start : start + batch]])
                if len(pending) > 2:
                    _answer(runners[threads], pending.popleft())
            while pending:
                _answer(runners[threads], pending.popleft())

    return {**_cost_of(loop), "best": best}


def plain(address: str, model: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Ask a served model that takes fp32 [N, 3, 224, 224], a picture at a time."""
    import tritonclient.http as triton

    connection = triton.InferenceServerClient(address)

    def loop() -> None:
        for path in paths:
            pixels = _normalised(path)[None]
            tensor = triton.InferInput("input", pixels.shape, "FP32")
            tensor.set_data_from_numpy(pixels)
            int(connection.infer(model, [tensor]).as_numpy("probabilities").argmax())

    return _cost_of(loop)


def _normalised(path: Path) -> NDArray[np.float32]:
    """The usual evaluation of ImageNet's classifiers: the short side to 256, the middle 224, mean and deviation."""
    with Image.open(path) as image:
        scale = 256 / min(image.size)
        resized = image.convert("RGB").resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
        )
    left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _opened(artifact: Path, threads: int) -> Runner:
    from model.runners.onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(artifact, threads=threads, spinning=False)


def _answer(runner: Runner, images: Sequence[Future[tuple[ImageArray, Geometry]]]) -> None:
    runner.infer(np.stack([image.result()[0] for image in images]))


def _answer_all(runner: Runner, images: ImageArray, batch: int) -> None:
    for start in range(0, len(images), batch):
        runner.infer(images[start : start + batch])


def _cpu_of(work: Callable[[], None]) -> float:
    """The less of two, as what disturbs only adds."""
    work()
    return min(_cost_of(work)["cpu_s"] for _ in range(2))


def _cost_of(work: Callable[[], None]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def main(words: Sequence[str]) -> int:
    """Run one loop and print what it took."""
    way, *places, folder, count = words
    paths = pictures_below(Path(folder))[: int(count)]
    cost = in_process(Path(places[0]), paths) if way == "in-process" else plain(places[0], places[1], paths)
    print(json.dumps(cost))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
