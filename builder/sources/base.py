"""The base of all export sources: a model that gives an ONNX graph and the reference outputs for artifacts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from builder.onnx.export import onnx_from_network
from builder.sources.outputs import with_output_options
from tritonkit.comparison import infer_in_batches
from tritonkit.export_options import OutputOptions
from tritonkit.golden import Golden
from tritonkit.networks.network import Network
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import ModelSpec, Outputs


@dataclass(frozen=True)
class Source(ABC):
    """A model to export, with a description of its origin."""

    path: Path
    golden: Golden | None
    description: str

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """The spec of the model."""

    @property
    @abstractmethod
    def reference(self) -> Runner:
        """A runner of the original model: every artifact is compared with its outputs."""

    @property
    def network(self) -> Network | None:
        """The torch network; None where the source is a graph."""
        return None

    @property
    def precision(self) -> Precision:
        """The precision of the source; a graph that is not fp32 is exported unchanged."""
        return "fp32"

    @property
    def training(self) -> TrainedReference | None:
        """The outputs that training recorded; None without a golden sample."""
        return None

    @abstractmethod
    def write_graph(self, path: Path) -> None:
        """Write the ONNX graph in the source's precision, with a dynamic batch axis and the spec in its metadata.

        Raises ArtifactError.
        """

    def check_precision(self, precision: Precision) -> None:  # noqa: B027 - a network takes every precision
        """Raise InputError where the source cannot be exported in this precision."""

    @abstractmethod
    def with_output_options(self, options: OutputOptions) -> Self:
        """The same source with other output options. Raises InputError where its task does not support them."""


@dataclass(frozen=True)
class NetworkSource(Source):
    """A torch network."""

    module: Network
    trained: Network | None = None
    """The network with the options of its training, where `module` has other output options."""

    @property
    def spec(self) -> ModelSpec:
        return self.module.spec

    @property
    def network(self) -> Network:
        return self.module

    @property
    def reference(self) -> Runner:
        return TorchRunner(self.module, origin="the checkpoint")

    @property
    def training(self) -> TrainedReference | None:
        if self.golden is None:
            return None
        return TrainedReference(TorchRunner(self.trained or self.module, origin="the checkpoint"), self.golden)

    def write_graph(self, path: Path) -> None:
        onnx_from_network(self.module, path)

    def with_output_options(self, options: OutputOptions) -> Self:
        return replace(self, module=with_output_options(self.module, options), trained=self.module)


@dataclass(frozen=True)
class TrainedReference:
    """The checkpoint as it was trained, and the golden sample with the outputs that training recorded."""

    reference: Runner
    golden: Golden


def replay_golden(runner: Runner, recorded: Golden, batch: int) -> Outputs | None:
    """Run a model on a golden sample; None where the sample's shapes are those of another model.

    batch: images in one request.
    """
    if recorded.images.shape[1:] != runner.spec.input.shape:
        return None
    now = infer_in_batches(runner, recorded.images, batch)
    same = {name: array.shape for name, array in now.items()} == {k: v.shape for k, v in recorded.outputs.items()}
    return now if same else None
