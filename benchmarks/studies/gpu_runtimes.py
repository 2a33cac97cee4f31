"""Run a network in each installed runtime: torch, ONNX Runtime, TensorRT, and the simulation of fp16."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
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
from tritonkit.networks.network import Network
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
_PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}

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
        cells = [
            self.network,
            f"{self.runtime} {self.precision}",
            self.problem or self.skipped or _number(self.relative),
            _number(self.against_simulation),
            _number(self.images_per_s, ".0f"),
            "" if self.skipped else "yes" if self.passed else "NO",
        ]
        return markdown_row(cells)


def _number(value: float | None, style: str = ".1e") -> str:
    return "" if value is None else format(value, style)


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
            network = _NetworkUnderTest(name, Path(temporary))
        except Exception as problem:  # noqa: BLE001 - the other networks still run
            yield RuntimeResult(network=name, runtime="graphs", precision="fp16", problem=_first_line(problem))
            return
        for (runtime, precision), open_runner in _runtimes(network, settings).items():
            yield _measure(
                network, settings, RuntimeResult(network=name, runtime=runtime, precision=precision), open_runner
            )


class _NetworkUnderTest:
    """A network, its graphs, and the answers of torch and of the simulation on the CPU."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.network = calibrated_network(name)
        self.images = builtin_golden(self.network.spec.preprocess).images
        self.graphs: dict[Precision, Path] = {
            precision: folder / f"{precision}{ONNX.suffix}" for precision in PRECISIONS
        }
        self.reference = _torch_infer(self.network, "cpu", "fp32")(self.images)
        onnx_from_network(self.network, self.graphs["fp32"])
        attempt = next(PrecisionSearch(self.graphs["fp32"], self.images).steps("fp16", "onnxruntime"))
        attempt.write(self.graphs["fp16"])
        # The simulation that a verdict uses without a GPU, on the CPU even if ONNX Runtime finds a GPU.
        simulation = simulate_rounding(onnx.load(self.graphs["fp16"])).SerializeToString()
        session = onnxruntime.InferenceSession(simulation, providers=["CPUExecutionProvider"])
        self.simulate: Infer = lambda batch: session.run(None, {session.get_inputs()[0].name: batch})[0]
        self.simulated_answers = self.simulate(self.images)


def _runtimes(network: _NetworkUnderTest, settings: RunSettings) -> dict[tuple[str, Precision], Callable[[], Infer]]:
    runtimes: dict[tuple[str, Precision], Callable[[], Infer]] = {(SIMULATION, "fp16"): lambda: network.simulate}
    for precision in PRECISIONS:
        graph = network.graphs[precision]
        runtimes["torch", precision] = partial(_torch_infer, network.network, settings.device, precision)
        runtimes["onnxruntime", precision] = partial(_onnxruntime_infer, settings.device, OnnxRuntimeRunner, graph)
        for flavour, package in _PACKAGES.items():
            runtimes[package, precision] = partial(_tensorrt_infer, flavour, network, precision, settings)
    if settings.device == "cuda":
        open_runner = partial(simulated_runner, spec=network.network.spec, folder=network.folder)
        runtimes["simulation on the GPU", "fp16"] = partial(
            _onnxruntime_infer, "cuda", open_runner, network.graphs["fp16"]
        )
    return runtimes


def _measure(
    network: _NetworkUnderTest, settings: RunSettings, result: RuntimeResult, open_runner: Callable[[], Infer]
) -> RuntimeResult:
    try:
        infer = open_runner()
        answers = infer(network.images)
        if not np.isfinite(answers).all():
            return result.model_copy(update={"problem": "the answers contain NaN or infinity"})
        measurements: dict[str, float] = {"relative": relative_error(network.reference, answers)}
        if result.runtime != SIMULATION:
            # The median of runs of one batch, including the copies to the GPU and back.
            batch = network.images[np.arange(settings.batch) % len(network.images)]
            for _ in range(min(_WARM_UPS, settings.runs)):
                infer(batch)
            durations_s = []
            for _ in range(settings.runs):
                started = time.perf_counter()
                infer(batch)
                durations_s.append(time.perf_counter() - started)
            measurements["images_per_s"] = settings.batch / statistics.median(durations_s)
            if result.precision == "fp16":
                measurements["against_simulation"] = relative_error(network.simulated_answers, answers)
        return result.model_copy(update=measurements)
    except NotInstalledError as reason:
        return result.model_copy(update={"skipped": str(reason)})
    except Exception as problem:  # noqa: BLE001 - each library fails in its own way; the other runtimes still run
        return result.model_copy(update={"problem": _first_line(problem)})


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].replace("|", "/")


def _torch_infer(network: Network, device: str, precision: Precision) -> Infer:
    if device == "cuda" and not torch.cuda.is_available():
        raise ArtifactError(
            f"torch {torch.__version__} finds no GPU; install its build for CUDA", code="machine.no_gpu"
        )
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model, dtype = copy.deepcopy(network).to(device), _TYPES[precision]
    model.backbone.to(dtype)  # the normalisation before and the softmax after stay in fp32, as in the graphs

    def infer(batch: ImageArray) -> Answers:
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(device).float().permute(0, 3, 1, 2)
            logits = model.backbone(((pixels - model.mean) / model.std).to(dtype)).float()
            (answers,) = model.answers(logits)
            probabilities: Answers = answers.cpu().numpy()
        return probabilities

    return infer


def _onnxruntime_infer(device: str, open_runner: Callable[[Path], OnnxRuntimeRunner], graph: Path) -> Infer:
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotInstalledError("onnxruntime-gpu is not installed")
    runner = open_runner(graph)
    if device == "cuda" and not runner.is_on_gpu:
        raise ArtifactError(
            f"onnxruntime {onnxruntime.__version__} could not load its CUDA provider and uses the CPU",
            code="machine.no_cuda_provider",
        )
    return lambda batch: runner.infer(batch)["probabilities"]


def _tensorrt_infer(flavour: Flavour, network: _NetworkUnderTest, precision: Precision, settings: RunSettings) -> Infer:
    if module_name(_PACKAGES[flavour]) is None:
        raise NotInstalledError(f"{_PACKAGES[flavour]} is not installed")
    gpu = find_gpu()
    if settings.device == "cpu" or gpu is None:
        raise NotInstalledError("needs a GPU")
    capabilities = (gpu.compute_capability,) if flavour == "rtx" else ()
    largest = max(settings.batch, len(network.images))
    build_settings = BuildSettings(
        flavour=flavour, max_batch=largest, opt_batch=settings.batch, compute_capabilities=capabilities
    )
    plan = network.folder / f"{precision}.{flavour}"
    build(network.graphs[precision], plan, build_settings, lambda step: None)
    runner = TensorRtRunner(plan, spec=network.network.spec)
    return lambda batch: runner.infer(batch)["probabilities"]
