"""Where a model comes from: anything that gives an ONNX graph, and the answers that artifacts must keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from builder.onnx_export import onnx_from_network
from builder.proving.judge import Training
from builder.targets import Precision
from builder.terms import OutputOptions, in_terms
from model.golden import Golden
from model.network import Network
from model.runners.base import Runner
from model.runners.pytorch import TorchRunner
from model.spec import ModelSpec


@dataclass(frozen=True)
class Source(ABC):
    """A model ready to export, and how it was come by."""

    path: Path
    golden: Golden | None
    description: str

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """What the model is."""

    @property
    @abstractmethod
    def reference(self) -> Runner:
        """The model as it was given: every artifact is judged against its answers."""

    @property
    def network(self) -> Network | None:
        """The torch network, None where the source is a graph."""
        return None

    @property
    def precision(self) -> Precision:
        """What the graph computes in as it came; one that is no longer fp32 is exported as it is."""
        return "fp32"

    @property
    def training(self) -> Training | None:
        """What training left to be recalled, None without a golden sample."""
        return None

    @abstractmethod
    def write_graph(self, path: Path) -> None:
        """Write the ONNX graph in the precision held: a dynamic batch axis, the spec in its metadata.

        Raises ArtifactError.
        """

    def check_takes(self, precision: Precision) -> None:  # noqa: B027 - a network takes every one
        """Raise InputError when it cannot be exported in this precision."""

    @abstractmethod
    def asked_in(self, terms: OutputOptions) -> Self:
        """The same source asked in other terms. Raises InputError where its task knows no such term."""


@dataclass(frozen=True)
class NetworkSource(Source):
    """A torch network."""

    module: Network
    trained: Network | None = None
    """Where other terms are asked: the network in those it was trained with."""

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
    def training(self) -> Training | None:
        if self.golden is None:
            return None
        return Training(TorchRunner(self.trained or self.module, origin="the checkpoint"), self.golden)

    def write_graph(self, path: Path) -> None:
        onnx_from_network(self.module, path)

    def asked_in(self, terms: OutputOptions) -> Self:
        return replace(self, module=in_terms(self.module, terms), trained=self.module)
