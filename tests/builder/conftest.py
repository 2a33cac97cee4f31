"""Exported networks, whole and faulty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from builder.export import Evidence
from builder.onnx_export import onnx_from_network
from builder.proving.verdict import Verdict
from builder.proving.verify import verified
from builder.sources.base import NetworkSource
from model.network import Network

MAX_BATCH = 8


@pytest.fixture
def judge_graph_of(tmp_path: Path) -> Callable[..., Verdict]:
    """Export one network, change the file if wanted, and judge it against another network."""

    def judged(exported: Network, against: Network, edit: Callable[[Path], None] | None = None) -> Verdict:
        artifact = tmp_path / "model.onnx"
        onnx_from_network(exported, artifact)
        if edit is not None:
            edit(artifact)
        source = NetworkSource(artifact, None, "a test", against)
        return verified(artifact, source, MAX_BATCH, Evidence())

    return judged


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small classifier of someone else's."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The labels of its three classes."""
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\nbird\n")
    return path
