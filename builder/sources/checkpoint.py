"""Open a checkpoint that `train` wrote."""

from __future__ import annotations

from pathlib import Path

from builder.sources.base import NetworkSource
from tritonkit.golden import golden_of_checkpoint
from tritonkit.networks.network import load_network


def source_from_checkpoint(path: Path, name: str | None = None) -> NetworkSource:
    """Open a checkpoint that `train` wrote. Raises CheckpointError, SpecError, ArtifactError."""
    network = load_network(path)
    if name:
        network.spec = network.spec.renamed(name)
    return NetworkSource(path, golden_of_checkpoint(path), f"checkpoint {path.name}", network)
