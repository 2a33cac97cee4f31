"""Where a model comes from. `open_source` picks by what the file holds and what was said of it."""

from __future__ import annotations

from pathlib import Path

from builder.options import ForeignModelOptions
from builder.sources.base import Source
from builder.sources.foreign import source_from_state_dict
from builder.sources.kinds import kind_of
from builder.sources.onnx import source_from_onnx
from builder.sources.ours import source_from_checkpoint
from builder.sources.pretrained import pretrained_source
from builder.sources.torchscript import source_from_torchscript
from model.checkpoint import read_spec

__all__ = ["Source", "open_source", "source_from_checkpoint", "source_from_state_dict"]


def open_source(source: str | Path, foreign: ForeignModelOptions | None, name: str | None) -> Source:
    """Open what is to be exported: a file, `timm:NAME` or `torchvision:NAME`.

    Raises InputError, and what the readers of each kind raise.
    """
    told = foreign or ForeignModelOptions()
    if (pretrained := pretrained_source(str(source), told, name)) is not None:
        return pretrained
    path = Path(source)
    kind = kind_of(path)
    if kind == "onnx":
        return source_from_onnx(path, told, name)
    if kind == "torchscript":
        return source_from_torchscript(path, told, name)
    if kind == "weights" or told.model is not None:
        return source_from_state_dict(path, told, name)
    read_spec(path)  # a damaged file says so first: it may be someone else's
    told.refuse(told.given, f"{path} is a checkpoint that carries its own spec")
    return source_from_checkpoint(path, name)
