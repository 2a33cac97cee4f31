"""ONNX, served by Triton's `onnxruntime` backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from builder.formats.base import ArtifactBuilder, BuildJob
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner


class Onnx(ArtifactBuilder):
    """The unchanged ONNX graph."""

    format = ONNX

    def write(self, job: BuildJob) -> Path:
        artifact = job.folder / self.format.file
        shutil.copyfile(job.graph, artifact)
        return artifact

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner | None:
        if job.precision == "bf16":  # ONNX Runtime has no bf16 kernels on a CPU
            return None
        runner = OnnxRuntimeRunner(artifact, spec=job.source.spec, spinning=False)
        if job.precision == "fp16" and not runner.is_on_gpu:  # a CPU computes in fp32: that does not verify fp16
            runner.infer(np.zeros((1, *job.source.spec.input.shape), dtype=np.uint8))
            return None
        return runner
