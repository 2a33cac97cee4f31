"""TensorRT plans for Triton, and engines of TensorRT for RTX that are published with an ONNX model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.failures import CannotBuildError
from builder.formats.base import ArtifactBuilder, BuildJob
from builder.formats.onnx import Onnx
from builder.formats.worst_case_runner import WorstCaseRunner
from builder.onnx.interface import onnx_interface
from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import RTX, TRT
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.tensorrt_plan import find_tensorrt
from tritonkit.system.gpu import Gpu, find_gpu
from tritonkit.triton.releases import release_of


@contextmanager
def _artifact_errors_end_the_build() -> Iterator[None]:
    """Turn an ArtifactError about a new plan into a CannotBuildError, because a less reduced graph would not help."""
    try:
        yield
    except CannotBuildError:
        raise
    except ArtifactError as error:
        raise CannotBuildError(str(error), code=error.code, problems=error.problems) from error


class _EngineBuilder(ArtifactBuilder):
    """What plans and engines have in common."""

    def settings(self, job: BuildJob) -> BuildSettings:
        """The build options, with the batch sizes of the job."""
        options = self.options.model_dump()
        return BuildSettings(**options, flavour=self.format.flavour, max_batch=job.max_batch, opt_batch=job.opt_batch)

    def check_job(self, job: BuildJob) -> None:
        self.settings(job).check()

    def write(self, job: BuildJob) -> Path:
        """Build the engine into the version folder, with a build record that contains the interface of its graph.

        Raises CannotBuildError where the engine does not have the precision of the job.
        """
        from builder.tensorrt.build import build
        from builder.tensorrt.container import build_in_container
        from builder.tensorrt.precision import precision_problems

        engine = job.folder / self.format.file
        if self.image is None:
            record = build(job.graph, engine, self.settings(job), job.report)
        else:
            tensor = job.source.spec.input
            with _artifact_errors_end_the_build():
                record = build_in_container(job.graph, engine, tensor, self.settings(job), self.image, job.report)
        with _artifact_errors_end_the_build():
            problems = precision_problems(engine, job.graph, job.precision, record)
        if problems:
            raise CannotBuildError(
                f"{engine.name}: {'; '.join(problem.message for problem in problems)}",
                code="tensorrt.plan_precision",
                problems=problems,
            )
        inputs, outputs = onnx_interface(job.graph)
        record.model_copy(update={"inputs": inputs, "outputs": outputs}).write(job.folder)
        return engine


class Trt(_EngineBuilder):
    """A plan, served by Triton's `tensorrt` backend with the TensorRT version that built it."""

    format = TRT

    def check_machine(self) -> None:
        if self.image is None:
            find_tensorrt("tensorrt")
        else:
            from builder.tensorrt.container import docker_here

            docker_here()

    def check_job(self, job: BuildJob) -> None:
        super().check_job(job)
        if self.image is not None:
            from builder.tensorrt.container import check_image

            job.report(f"checking whether {self.image} can build")
            check_image(self.image)

    def expected_build_record(self, job: BuildJob) -> BuildRecord | None:
        if self.image is None:
            built_by = find_tensorrt("tensorrt").__version__
        elif (release := release_of(self.image)) is not None:
            built_by = release.tensorrt
        else:
            return None
        unknown: dict[str, Any] = {"seconds": 0, "bytes": 0, "sha256": "", "graph_sha256": ""}
        settings = self.settings(job)
        return BuildRecord(flavour="tensorrt", tensorrt=built_by, settings=settings, image=self.image, **unknown)

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        compatible = self.options.version_compatible
        if self.image is None:
            from tritonkit.runtimes.tensorrt import TensorRtRunner

            with _artifact_errors_end_the_build():
                return TensorRtRunner(artifact, spec=job.source.spec, version_compatible=compatible)
        from builder.tensorrt.served import ServedPlan

        return ServedPlan(artifact, job.graph, job.source.spec, job.max_batch, self.image, compatible)

    def verification_method(self, job: BuildJob) -> str:
        if self.image is not None:
            return f"the plan itself, served by Triton in {self.image}"
        gpu = find_gpu()
        return f"the plan itself, run by TensorRT on {gpu.name if gpu else 'a GPU'}"


class Rtx(_EngineBuilder):
    """An ONNX model for Triton, with an engine of the same graph for RTX machines.

    Triton has no backend for these engines: `onnxruntime` serves `model.onnx`, and `client infer --from` runs
    `model.rtx`. bf16 is refused, because ONNX Runtime has no bf16 kernels for most operators.
    """

    format = RTX

    def check_machine(self) -> None:
        find_tensorrt("rtx")

    def write(self, job: BuildJob) -> Path:
        if job.precision == "bf16":
            raise CannotBuildError(
                "--rtx bf16: Triton serves this version by ONNX Runtime, which does not compute in bf16. "
                "Use --rtx fp16, or --trt bf16",
                code="tensorrt.rtx_bf16",
            )
        super().write(job)
        return Onnx().write(job)

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner | None:
        graph = Onnx().open_runner(artifact, job)
        gpu = find_gpu()
        if gpu is None or not self._runs_on(gpu, job):
            return graph
        from tritonkit.runtimes.tensorrt import TensorRtRunner

        with _artifact_errors_end_the_build():
            engine = TensorRtRunner(artifact.with_name(self.format.file), spec=job.source.spec)
        return engine if graph is None else WorstCaseRunner(job.source.reference, (engine, graph))

    def verification_method(self, job: BuildJob) -> str:
        gpu = find_gpu()
        is_run = True
        if job.precision == "fp16":  # ONNX Runtime computes fp16 in fp32 on a CPU, also where its GPU provider fails
            with OnnxRuntimeRunner(job.graph, spec=job.source.spec, spinning=False) as runner:
                is_run = bool(runner.is_on_gpu)
        graph = "its graph, run by onnxruntime" if is_run else "its graph, by a simulation of its rounding"
        if gpu is not None and self._runs_on(gpu, job):
            both = f"{self.format.file}, run by TensorRT for RTX on {gpu.name}, and {graph}"
            return f"{both}; for each image the answer with the larger error counts" if is_run else both
        why = f"{gpu.name} is not a GPU that it is built for" if gpu is not None else "no GPU here"
        return f"{graph}; {self.format.file} was built from the same graph, and not run: {why}"

    def _runs_on(self, gpu: Gpu, job: BuildJob) -> bool:
        return self.settings(job).runs_on(gpu.compute_capability)
