"""Exported networks, whole and faulty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.export import verdict_on
from builder.onnx_export import onnx_from_network
from builder.sources import builtin_golden
from builder.verdict import Verdict
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
        return verdict_on(artifact, against, builtin_golden(against.spec.preprocess), MAX_BATCH)

    return judged
