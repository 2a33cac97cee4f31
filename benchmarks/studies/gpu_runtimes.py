"""Run a network in each installed runtime: torch, ONNX Runtime, TensorRT, and the simulation of fp16."""

from __future__ import annotations

import copy
import statistics
import tempfile
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.studies.calibration import calibrated_network
from benchmarks.studies.study import markdown_row
from builder.onnx.export import onnx_from_network
from builder.onnx.simulation import simulate_rounding, simulated_runner
from builder.precision.precision_search import PrecisionSearch
from builder.sources.images import builtin_golden
from builder.tensorrt.build import build
from scripts.package_versions import module_name
from tritonkit.comparison import relative_error
from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.build_record import BuildSettings
from tritonkit.repository.verdict import LIMITS
from tritonkit.runtimes.formats import ONNX, Precision
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.runtimes.tensorrt import TensorRtRunner
from tritonkit.runtimes.tensorrt_plan import Flavour
from tritonkit.spec import Frozen
from tritonkit.system.gpu import find_gpu

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
SIMULATION = "simulation on the CPU"
_WARM_UPS = 3
_TYPES = {"fp32": torch.float32, "fp16": torch.float16}

Answers = NDArray[np.float32]
Infer = Callable[[ImageArray], Answers]
"""Probabilities [N, classes] of uint8 images [N, H, W, 3]."""

HEAD = """| network | runtime | relative error | against simulation | images/s | passed |
|---|---|---|---|---|---|"""


class RuntimeResult(Frozen):
    """Result of one network in one runtime."""

    network: str
    runtime: str
    precision: Precision
    relative: float | None = None
    """Error relative to the variation of the answers of torch, fp32 on the CPU."""
    against_simulation: float | None = None
    """fp16: the same, from the answers of the simulation."""
    images_per_s: float | None = None
    skipped: str | None = None
    """Why it did not run: a package or GPU is missing."""
    problem: str | None = None
    """Why it failed, although all requirements are installed."""

    @property
    def passed(self) -> bool:
        """Whether it was skipped, or ran within the limit of its precision."""
        limit = LIMITS[self.precision].relative
        errors = (error for error in (self.relative, self.against_simulation) if error is not None)
        return self.skipped is not None or (self.problem is None and all(error <= limit for error in errors))

    def row(self) -> str:
        """Return the row of the table."""
        errors = ["" if error is None else f"{error:.1e}" for error in (self.relative, self.against_simulation)]
        rate = "" if self.images_per_s is None else f"{self.images_per_s:.0f}"
        passed = "" if self.skipped else "yes" if self.passed else "NO"
        outcome = self.problem or self.skipped or errors[0]
        return markdown_row([self.network, f"{self.runtime} {self.precision}", outcome, errors[1], rate, passed])


@dataclass(frozen=True)
class RunSettings:
    """Device, and how the rate is measured."""

    device: str
    """`cuda`, or `cpu` to test the script without a GPU."""
    batch: int
    runs: int


class NotInstalledError(Exception):
    """A runtime needs a package or GPU that is not available."""


def check(name: str, settings: RunSettings) -> Iterator[RuntimeResult]:
    """Run a network in each runtime; a result says why a runtime failed or was skipped."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            network = NetworkUnderTest(name, Path(temporary), settings)
        except Exception as problem:  # noqa: BLE001 - the other networks still run
            yield RuntimeResult(network=name, runtime="graphs", precision="fp16", problem=_first_line(problem))
            return
        for (runtime, precision), open_runtime in network.runtimes().items():
            result = RuntimeResult(network=name, runtime=runtime, precision=precision)
            try:
                yield result.model_copy(update=network.measure(runtime, precision, open_runtime()))
            except NotInstalledError as reason:
                yield result.model_copy(update={"skipped": str(reason)})
            except Exception as problem:  # noqa: BLE001 - libraries fail in their own ways; other runtimes still run
                yield result.model_copy(update={"problem": _first_line(problem)})


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].replace("|", "/")


class NetworkUnderTest:
    """A network, its graphs, and the answers of torch and of the simulation on the CPU."""

    def __init__(self, name: str, folder: Path, settings: RunSettings) -> None:
        self.settings = settings
        self.folder = folder
        self.network = calibrated_network(name)
        self.images = builtin_golden(self.network.spec.preprocess).images
        self.graphs: dict[Precision, Path] = {name: folder / f"{name}{ONNX.suffix}" for name in PRECISIONS}
        self.reference = self.open_torch("cpu", "fp32")(self.images)
        onnx_from_network(self.network, self.graphs["fp32"])
        attempt = next(PrecisionSearch(self.graphs["fp32"], self.images).steps("fp16", "onnxruntime"))
        attempt.write(self.graphs["fp16"])
        # The simulation that a verdict uses without a GPU, on the CPU even if ONNX Runtime finds a GPU.
        simulation = simulate_rounding(onnx.load(self.graphs["fp16"])).SerializeToString()
        session = onnxruntime.InferenceSession(simulation, providers=["CPUExecutionProvider"])
        self.simulate: Infer = lambda batch: session.run(None, {session.get_inputs()[0].name: batch})[0]
        self.simulated_answers = self.simulate(self.images)

    def runtimes(self) -> dict[tuple[str, Precision], Callable[[], Infer]]:
        """Return how each runtime opens the network, by runtime and precision."""
        device = self.settings.device
        runtimes: dict[tuple[str, Precision], Callable[[], Infer]] = {(SIMULATION, "fp16"): lambda: self.simulate}
        for precision, graph in self.graphs.items():
            runtimes["torch", precision] = partial(self.open_torch, device, precision)
            runtimes["onnxruntime", precision] = partial(self.open_onnxruntime, OnnxRuntimeRunner, graph)
            runtimes["tensorrt", precision] = partial(self.open_tensorrt, "tensorrt", "tensorrt", precision)
            runtimes["tensorrt-rtx", precision] = partial(self.open_tensorrt, "tensorrt-rtx", "rtx", precision)
        if device == "cuda":
            simulation = partial(simulated_runner, spec=self.network.spec, folder=self.folder)
            open_simulation = partial(self.open_onnxruntime, simulation, self.graphs["fp16"])
            runtimes["simulation on the GPU", "fp16"] = open_simulation
        return runtimes

    def measure(self, runtime: str, precision: Precision, infer: Infer) -> dict[str, float]:
        """Return the errors, and the rate of one batch at a time, including the copies to the GPU and back."""
        answers = infer(self.images)
        if not np.isfinite(answers).all():
            raise ArithmeticError("the answers contain NaN or infinity")
        measured = {"relative": relative_error(self.reference, answers)}
        if runtime == SIMULATION:
            return measured
        if precision == "fp16":
            measured["against_simulation"] = relative_error(self.simulated_answers, answers)
        batch = self.images[np.arange(self.settings.batch) % len(self.images)]
        for _ in range(min(_WARM_UPS, self.settings.runs)):
            infer(batch)
        durations_s = timeit.repeat(lambda: infer(batch), number=1, repeat=self.settings.runs)
        return {**measured, "images_per_s": self.settings.batch / statistics.median(durations_s)}

    def open_torch(self, device: str, precision: Precision) -> Infer:
        """Copy the network to a device."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ArtifactError(
                f"torch {torch.__version__} finds no GPU; install its build for CUDA", code="machine.no_gpu"
            )
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        model, dtype = copy.deepcopy(self.network).to(device), _TYPES[precision]
        model.backbone.to(dtype)  # the normalisation before and the softmax after stay in fp32, as in the graphs

        def infer(batch: ImageArray) -> Answers:
            with torch.inference_mode():
                pixels = torch.from_numpy(batch).to(device).float().permute(0, 3, 1, 2)
                logits = model.backbone(((pixels - model.mean) / model.std).to(dtype)).float()
                (answers,) = model.answers(logits)
                probabilities: Answers = answers.cpu().numpy()
            return probabilities

        return infer

    def open_onnxruntime(self, open_runner: Callable[[Path], OnnxRuntimeRunner], graph: Path) -> Infer:
        """Open a graph, on the GPU unless the script is tested on the CPU."""
        on_gpu = self.settings.device == "cuda"
        if on_gpu and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise NotInstalledError("onnxruntime-gpu is not installed")
        runner = open_runner(graph)
        if on_gpu and not runner.is_on_gpu:
            raise ArtifactError(
                f"onnxruntime {onnxruntime.__version__} could not load its CUDA provider and uses the CPU",
                code="machine.no_cuda_provider",
            )
        return lambda batch: runner.infer(batch)["probabilities"]

    def open_tensorrt(self, package: str, flavour: Flavour, precision: Precision) -> Infer:
        """Build an engine and open it."""
        if module_name(package) is None:
            raise NotInstalledError(f"{package} is not installed")
        gpu, batch = find_gpu(), self.settings.batch
        if self.settings.device == "cpu" or gpu is None:
            raise NotInstalledError("needs a GPU")
        settings = BuildSettings(
            flavour=flavour,
            max_batch=max(batch, len(self.images)),
            opt_batch=batch,
            compute_capabilities=(gpu.compute_capability,) if flavour == "rtx" else (),
        )
        plan = self.folder / f"{precision}.{flavour}"
        build(self.graphs[precision], plan, settings, lambda step: None)
        runner = TensorRtRunner(plan, spec=self.network.spec)
        return lambda batch: runner.infer(batch)["probabilities"]
