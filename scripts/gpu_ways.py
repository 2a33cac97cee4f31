"""Every way to run a network that is installed here: torch, ONNX Runtime, TensorRT, and the simulation of fp16."""

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

from builder.onnx_export import onnx_from_network
from builder.precision.ladder import Ladder
from builder.precision.simulate import simulated, simulated_runner
from builder.sources.images import builtin_golden
from builder.targets import Precision
from builder.tensorrt.build import build
from model.build_record import BuildSettings
from model.comparison import relative_error
from model.errors import ArtifactError
from model.gpu import find_gpu
from model.network import Network
from model.plans import Flavour
from model.preprocess import ImageArray
from model.runners.onnxruntime import OnnxRuntimeRunner
from model.runners.tensorrt import TensorRtRunner
from scripts.calibrated import network_of
from scripts.gpu_report import Way
from scripts.installed import module_of

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
SIMULATION = "simulation on the CPU"
_WARM_UPS = 3
_TYPES = {"fp32": torch.float32, "fp16": torch.float16}
_PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}

Answers = NDArray[np.float32]
Infer = Callable[[ImageArray], Answers]
"""Probabilities [N, classes] of uint8 images [N, H, W, 3]."""


@dataclass(frozen=True)
class Effort:
    """Where it runs, and how a rate is taken."""

    device: str
    """`cuda`, or `cpu` to try the script itself."""
    batch: int
    runs: int


class NotHereError(Exception):
    """What a way needs is not installed."""


def check(name: str, effort: Effort) -> Iterator[Way]:
    """Run one network in every way; a way that fails, or is not installed, says why."""
    with tempfile.TemporaryDirectory() as place:
        try:
            subject = _Subject(name, Path(place))
        except Exception as problem:  # noqa: BLE001 - the other networks are still worth their time
            yield Way(network=name, way="graphs", precision="fp16", problem=_told(problem))
            return
        for (way, precision), opened in _ways(subject, effort).items():
            yield _tried(subject, effort, Way(network=name, way=way, precision=precision), opened)


class _Subject:
    """A network, its graphs, and what torch and the simulation answer on the CPU."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.network = network_of(name)
        self.images = builtin_golden(self.network.spec.preprocess).images
        self.graphs: dict[Precision, Path] = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
        self.right = _torch_on(self.network, "cpu", "fp32")(self.images)
        onnx_from_network(self.network, self.graphs["fp32"])
        first = next(Ladder(self.graphs["fp32"], self.images).steps("fp16", "onnxruntime"))
        first.write(self.graphs["fp16"])
        self.simulate = _simulation(self.graphs["fp16"])
        self.simulated = self.simulate(self.images)


def _ways(subject: _Subject, effort: Effort) -> dict[tuple[str, Precision], Callable[[], Infer]]:
    ways: dict[tuple[str, Precision], Callable[[], Infer]] = {(SIMULATION, "fp16"): lambda: subject.simulate}
    for precision in PRECISIONS:
        graph = subject.graphs[precision]
        ways["torch", precision] = partial(_torch_on, subject.network, effort.device, precision)
        ways["onnxruntime", precision] = partial(_onnxruntime_on, effort.device, OnnxRuntimeRunner, graph)
        for flavour, package in _PACKAGES.items():
            ways[package, precision] = partial(_engine, flavour, subject, precision, effort)
    if effort.device == "cuda":
        opened = partial(simulated_runner, spec=subject.network.spec, folder=subject.folder)
        ways["simulation on the GPU", "fp16"] = partial(_onnxruntime_on, "cuda", opened, subject.graphs["fp16"])
    return ways


def _tried(subject: _Subject, effort: Effort, way: Way, opened: Callable[[], Infer]) -> Way:
    try:
        infer = opened()
        answers = infer(subject.images)
        if not np.isfinite(answers).all():
            return way.model_copy(update={"problem": "answers hold NaN or infinity"})
        found: dict[str, float] = {"relative": relative_error(subject.right, answers)}
        if way.way != SIMULATION:
            found["images_per_s"] = _rate(infer, subject.images, effort)
            if way.precision == "fp16":
                found["against_simulation"] = relative_error(subject.simulated, answers)
        return way.model_copy(update=found)
    except NotHereError as reason:
        return way.model_copy(update={"skipped": str(reason)})
    except Exception as problem:  # noqa: BLE001 - each library fails in its own way; the next is tried all the same
        return way.model_copy(update={"problem": _told(problem)})


def _told(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].replace("|", "/")


def _torch_on(network: Network, device: str, precision: Precision) -> Infer:
    if device == "cuda" and not torch.cuda.is_available():
        raise ArtifactError(f"torch {torch.__version__} sees no GPU: install its build for CUDA")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    own, dtype = copy.deepcopy(network).to(device), _TYPES[precision]
    own.backbone.to(dtype)  # the normalisation before and the softmax after stay in fp32, as in the graphs

    def infer(batch: ImageArray) -> Answers:
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(device).float().permute(0, 3, 1, 2)
            logits = own.backbone(((pixels - own.mean) / own.std).to(dtype)).float()
            (answers,) = own.answers(logits)
            found: Answers = answers.cpu().numpy()
        return found

    return infer


def _simulation(graph: Path) -> Infer:
    """What a verdict on a machine without a GPU asks, also where ONNX Runtime could take the GPU."""
    session = onnxruntime.InferenceSession(
        simulated(onnx.load(graph)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def infer(batch: ImageArray) -> Answers:
        answers: Answers = session.run(None, {name: batch})[0]
        return answers

    return infer


def _onnxruntime_on(device: str, opened: Callable[[Path], OnnxRuntimeRunner], graph: Path) -> Infer:
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotHereError("onnxruntime-gpu is not installed")
    runner = opened(graph)
    if device == "cuda" and not runner.on_gpu:
        raise ArtifactError(f"onnxruntime {onnxruntime.__version__} could not load its CUDA provider and took the CPU")
    return lambda batch: runner.infer(batch)["probabilities"]


def _engine(flavour: Flavour, subject: _Subject, precision: Precision, effort: Effort) -> Infer:
    if module_of(_PACKAGES[flavour]) is None:
        raise NotHereError(f"{_PACKAGES[flavour]} is not installed")
    gpu = find_gpu()
    if effort.device == "cpu" or gpu is None:
        raise NotHereError("needs a GPU")
    here = (gpu.compute_capability,) if flavour == "rtx" else ()
    largest = max(effort.batch, len(subject.images))
    settings = BuildSettings(flavour=flavour, max_batch=largest, opt_batch=effort.batch, compute_capabilities=here)
    plan = subject.folder / f"{precision}.{flavour}"
    build(subject.graphs[precision], plan, settings, lambda step: None)
    runner = TensorRtRunner(plan, spec=subject.network.spec)
    return lambda batch: runner.infer(batch)["probabilities"]


def _rate(infer: Infer, images: ImageArray, effort: Effort) -> float:
    """Images a second: the median of runs of one batch, from the host and back to it."""
    batch = images[np.arange(effort.batch) % len(images)]
    for _ in range(min(_WARM_UPS, effort.runs)):
        infer(batch)
    spent = []
    for _ in range(effort.runs):
        began = time.perf_counter()
        infer(batch)
        spent.append(time.perf_counter() - began)
    return effort.batch / statistics.median(spent)
