"""Why an artifact gives wrong answers: known faults are tried on the reference until one explains them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from builder.judge import ask, in_other_colours
from builder.onnx_export import onnx_from_network
from builder.verdict import LIMITS, Problem, Verdict, relative_error
from model.errors import TritonkitError
from model.golden import Golden
from model.network import Network
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.runners.pytorch import TorchRunner
from model.spec import Normalize

MANY = 5
"""More tensors than this differing means another checkpoint, not one damaged tensor."""
_IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_USUAL = {
    "ImageNet's": _IMAGENET,
    "0.5 and 0.5": Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "0 and 1 (pixels only scaled to 0..1)": Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    "none (pixels in 0..255)": Normalize(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),
    "CLIP's": Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
}


def with_causes(verdict: Verdict, network: Network, candidate: Runner, golden: Golden, artifact: Path) -> Verdict:
    """A failed verdict with the causes found added to its problems; a passed one as it is."""
    if not any(problem.code in ("numbers", "decisions", "nan", "interface") for problem in verdict.problems):
        return verdict
    probes = in_other_colours(golden.images[:8])
    try:
        actual = ask(candidate, probes, 1)
    except TritonkitError:
        return verdict
    causes = list(_faults_that_explain(network, actual, probes)) or list(_changed_tensors(artifact, network))
    found = tuple(Problem(code="cause", message=cause) for cause in causes)
    return verdict.model_copy(update={"problems": found + verdict.problems})


def _faults_that_explain(network: Network, actual: Outputs, probes: ImageArray) -> Iterator[str]:
    for sentence, expected in _suspects(network, probes):
        shapes_agree = all(name in actual and actual[name].shape == array.shape for name, array in expected.items())
        if shapes_agree and _explains(expected, actual):
            yield sentence


def _suspects(network: Network, probes: ImageArray) -> Iterator[tuple[str, Outputs]]:
    """Each fault in words, with the answers a graph that has it would give."""
    reference = TorchRunner(network, origin="checkpoint")
    right = ask(reference, probes, 1)
    yield "channels are swapped: the graph takes BGR, expected RGB", ask(reference, probes[..., ::-1].copy(), 1)
    if probes.shape[1] == probes.shape[2]:
        yield "height and width are swapped", ask(reference, probes.transpose(0, 2, 1, 3).copy(), 1)
    spec = network.spec
    for title, normalize in _USUAL.items():
        if normalize != spec.normalize:
            other = TorchRunner(network.with_normalize(normalize), origin="checkpoint")
            yield (
                f"mean or std is wrong: the graph normalises with {title} mean and std, expected mean "
                f"{list(spec.normalize.mean)}, std {list(spec.normalize.std)}",
                ask(other, probes, 1),
            )
    for places in range(1, len(spec.labels)):
        shift = places if places <= len(spec.labels) // 2 else places - len(spec.labels)
        rolled = {name: np.roll(array, places, axis=1) for name, array in right.items()}
        yield f"labels are shifted by {shift:+d}: class k answers at place k{shift:+d}", rolled


def _explains(expected: Outputs, actual: Outputs) -> bool:
    limits = LIMITS["fp32"]
    return all(
        float(np.abs(actual[name] - array).max()) <= limits.max_abs
        and relative_error(array, actual[name]) <= limits.relative
        for name, array in expected.items()
    )


def _changed_tensors(artifact: Path, network: Network) -> Iterator[str]:
    """Compare the graph's tensors by name with those of a fresh export, which folds the same ones."""
    if artifact.suffix != ".onnx":
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "model.onnx"
        onnx_from_network(network, fresh)
        expected, actual = _initializers(fresh), _initializers(artifact)
    common = [name for name in expected if name in actual and expected[name].shape == actual[name].shape]
    changed = [name for name in common if not np.allclose(expected[name], actual[name], rtol=1e-3, atol=1e-6)]
    if len(changed) > MANY:
        yield f"{len(changed)} of {len(common)} weight tensors differ: the graph is of another checkpoint"
        return
    for name in changed:
        yield _change(name, expected[name], actual[name])


def _change(name: str, expected: NDArray[Any], actual: NDArray[Any]) -> str:
    if name in ("mean", "std"):
        given, wanted = ((array.ravel() / 255).round(4).tolist() for array in (actual, expected))
        return f"mean or std is wrong: the graph's {name} is {given}, expected {wanted}"
    if not np.isfinite(actual).all():
        return f"weight tensor {name} holds NaN or infinity"
    if not actual.any():
        return f"weight tensor {name} {list(actual.shape)} is all zeros; the checkpoint's is not"
    return f"weight tensor {name} {list(actual.shape)} differs by up to {float(np.abs(actual - expected).max()):.2e}"


def _initializers(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
