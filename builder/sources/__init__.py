"""Open the source of an export. `open_source` chooses the reader by the content of the file and the options."""

from __future__ import annotations

from pathlib import Path

from builder.sources.base import NetworkSource, Source
from builder.sources.kinds import source_kind
from builder.sources.onnx.source import source_from_onnx
from builder.sources.pretrained import pretrained_source
from builder.sources.state_dict import source_from_state_dict
from tritonkit.checkpoint import read_spec
from tritonkit.export_options import ForeignModelOptions
from tritonkit.golden import golden_of_checkpoint
from tritonkit.networks.network import load_network
from tritonkit.repository.artifact_files import local_artifact

__all__ = ["Source", "open_source", "source_from_checkpoint", "source_from_state_dict"]


def open_source(source: str | Path, foreign: ForeignModelOptions | None, name: str | None) -> Source:
    """Open the model to export: a file, `timm:NAME` or `torchvision:NAME`.

    Raises InputError, and what the reader of each kind raises.
    """
    options = foreign or ForeignModelOptions()
    if (pretrained := pretrained_source(str(source), options, name)) is not None:
        return pretrained
    path = local_artifact(source)
    kind = source_kind(path)
    if kind == "onnx":
        return source_from_onnx(path, options, name)
    if kind == "weights" or options.model is not None:
        return source_from_state_dict(path, options, name)
    read_spec(path)  # a damaged checkpoint is reported before unused options
    options.refuse(options.foreign_flags, f"{path} is a checkpoint that carries its own spec")
    return source_from_checkpoint(path, name)


def source_from_checkpoint(path: Path, name: str | None = None) -> NetworkSource:
    """Open a checkpoint that `train` wrote. Raises CheckpointError, SpecError, ArtifactError."""
    network = load_network(path)
    if name:
        network.spec = network.spec.renamed(name)
    return NetworkSource(path, golden_of_checkpoint(path), f"checkpoint {path.name}", network)
