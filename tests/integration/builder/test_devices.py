"""A network on another device is exported from the CPU and moved back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from builder.formats import BuildJob, builder_for
from builder.onnx.export import onnx_from_network
from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource
from tritonkit.networks.network import Network, on_cpu
from tritonkit.spec import ModelSpec

Writer = Callable[[Network, Path], object]


class OffCpuNetwork(Network):
    """Stands in for a network on a GPU: its statistics are out of reach until it is moved to the CPU."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.moves: list[str] = []
        self.cpu_mean, self.mean = self.mean, self.mean.to("meta")

    def cpu(self) -> Self:
        self.moves.append("cpu")
        self.mean = self.cpu_mean
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        self.moves.append(str(*args))
        self.mean = self.mean.to(*args)
        return self


def as_torchscript(network: Network, path: Path) -> None:
    source = NetworkSource(path, None, "a test", network)
    builder_for("torchscript").write(BuildJob(source, path, "fp32", path.parent, 8, None, lambda step: None))


@pytest.mark.parametrize("write", [onnx_from_network, as_torchscript])
def test_network_returns_to_its_device_after_export(write: Writer, spec: ModelSpec, tmp_path: Path) -> None:
    network = OffCpuNetwork(spec)
    write(network, tmp_path / "model.onnx")
    assert network.moves == ["cpu", "meta"]


def test_network_returns_to_its_device_when_the_export_fails(spec: ModelSpec) -> None:
    network = OffCpuNetwork(spec)
    with pytest.raises(ZeroDivisionError), on_cpu(network):
        _ = 1 / 0
    assert network.moves == ["cpu", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_export_passes_when_the_reference_runs_on_a_gpu(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    source = source_from_checkpoint(checkpoint)
    request = ExportRequest(
        source=source,
        repository=tmp_path / "repository",
        max_batch=4,
        **{kind: True if kind == "torchscript" else "fp32"},
    )
    assert export(request).verdict.passed
    assert source.network.mean.device.type == "cuda"
    image = np.zeros((1, *source.spec.input.shape), np.uint8)
    assert source.reference.infer(image)["probabilities"].shape == (1, 3)
