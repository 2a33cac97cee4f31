from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Timing, batches_of, measure_level
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

QUICK = Timing(window_s=0.1, max_windows=3, warm_up_s=0.05)


def test_a_real_model_is_measured_in_process(onnx_file: Path, images: NDArray[np.uint8]) -> None:
    windows: list[int] = []
    with OnnxRuntimeRunner(onnx_file, threads=1) as runner:
        measured = measure_level(runner, batches_of(images, 2), 2, QUICK, on_window=windows.append)
    figures = measured.figures
    assert windows == [1, 2, 3]
    assert 0 < figures.p50_ms <= figures.p90_ms <= figures.p95_ms <= figures.p99_ms
    assert measured.windows == 3
    assert measured.client_cores > 0
