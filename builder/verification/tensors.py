"""Find tensors of a graph that differ from a fresh export: damaged ones, or those of another checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from builder.onnx.export import onnx_from_network
from tritonkit.errors import Problem
from tritonkit.networks.network import Network
from tritonkit.runtimes.formats import ONNX, format_of

MAX_DAMAGED_TENSORS = 5
"""Where more tensors differ, the graph is of another checkpoint, not damaged."""


def changed_tensors(artifact: Path, network: Network) -> Iterator[Problem]:
    """Compare the graph's tensors by name with those of a fresh export; yield a problem for each difference."""
    if format_of(artifact) is not ONNX:
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / ONNX.file
        onnx_from_network(network, fresh)
        expected, actual = _initializers(fresh), _initializers(artifact)
    common = [name for name in expected if name in actual and expected[name].shape == actual[name].shape]
    changed = [name for name in common if not np.allclose(expected[name], actual[name], rtol=1e-3, atol=1e-6)]
    if len(changed) > MAX_DAMAGED_TENSORS:
        yield Problem(
            "verdict.other_checkpoint",
            f"{len(changed)} of {len(common)} weight tensors differ: the graph is of another checkpoint",
        )
        return
    for name in changed:
        right, found = expected[name], actual[name]
        if name in ("mean", "std"):
            values = [(array.ravel() / 255).round(4).tolist() for array in (found, right)]
            yield Problem(
                "verdict.normalization",
                f"mean or std is wrong: the graph's {name} is {values[0]}, expected {values[1]}",
            )
        elif not np.isfinite(found).all():
            yield Problem("verdict.weight_not_finite", f"weight tensor {name} holds NaN or infinity")
        elif not found.any():
            yield Problem(
                "verdict.weight_zero",
                f"weight tensor {name} {list(found.shape)} is all zeros; in the checkpoint it is not",
            )
        else:
            largest = float(np.abs(found - right).max())
            yield Problem(
                "verdict.weight_changed", f"weight tensor {name} {list(found.shape)} differs by up to {largest:.2e}"
            )


def _initializers(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
