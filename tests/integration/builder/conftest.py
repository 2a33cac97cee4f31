"""Fixtures: exported networks, right and faulty ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.formats import BuildJob
from builder.onnx.export import onnx_from_network
from builder.sources import source_from_checkpoint
from builder.sources.base import NetworkSource
from builder.verification.verify import verify_artifact
from tests.fixture_types import MakeNetwork
from tritonkit.export_options import VerificationOptions
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.verdict import Verdict

MAX_BATCH = 8


@pytest.fixture
def verify_graph_of(tmp_path: Path) -> Callable[..., Verdict]:
    """Export one network, change the file if `edit` is set, and verify it against another network."""

    def verify(exported: Network, against: Network, edit: Callable[[Path], None] | None = None) -> Verdict:
        artifact = tmp_path / "model.onnx"
        onnx_from_network(exported, artifact)
        if edit is not None:
            edit(artifact)
        source = NetworkSource(artifact, None, "a test", against)
        return verify_artifact(artifact, source, MAX_BATCH, VerificationOptions())

    return verify


@pytest.fixture
def network(make_network: MakeNetwork) -> Network:
    """The residual network."""
    return make_network("test_resnet")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_network: MakeNetwork) -> Path:
    """A folder with the residual network's checkpoint and graph."""
    folder = tmp_path_factory.mktemp("exported")
    save_network(folder / "pets.safetensors", make_network("test_resnet"))
    source_from_checkpoint(folder / "pets.safetensors").write_graph(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def graph(exported: Path) -> Path:
    """The graph of the residual network; tests must not change it."""
    return exported / "model.onnx"


@pytest.fixture
def job(exported: Path, tmp_path: Path) -> BuildJob:
    """A job to build the residual network in fp16."""
    source = source_from_checkpoint(exported / "pets.safetensors")
    graph = tmp_path / "model.onnx"
    shutil.copyfile(exported / "model.onnx", graph)
    (tmp_path / "1").mkdir()
    return BuildJob(source, graph, "fp16", tmp_path / "1", 4, None, lambda step: None)
