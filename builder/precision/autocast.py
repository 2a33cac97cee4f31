"""NVIDIA ModelOpt's AutoCast as an alternative to `builder.precision.cast`, with the same signature.

An optional extra. AutoCast only places the casts; `builder.precision.precision_search` chooses the nodes that stay in
fp32.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import onnx
from onnx import ModelProto

from builder.failures import CannotBuildError
from builder.onnx.wiring import flattened, outer_nodes, wiring_of
from tritonkit.runtimes.formats import ONNX, ReducedType


def autocast(model: ModelProto, precision: ReducedType, keep: Collection[str] = ()) -> ModelProto:
    """Convert the float arithmetic of a graph to `precision`, as `builder.precision.cast.cast_graph` does.

    Raises CannotBuildError where ModelOpt is not installed.
    """
    try:
        from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise _modelopt_missing(str(error)) from error
    flat = flattened(model)
    out = outer_nodes(flat, wiring_of(flat)) | set(keep)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / ONNX.file
        onnx.save(flat, path)
        converted: ModelProto = convert_to_mixed_precision(
            str(path),
            low_precision_type=precision,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in sorted(out)],
            data_max=float("inf"),
            init_max=float("inf"),
            keep_io_types=True,
        )
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def check_converter(name: str) -> None:
    """Raise CannotBuildError where `autocast` is chosen and ModelOpt is not installed. Importing it takes seconds."""
    if name == "autocast" and find_spec("modelopt") is None:
        raise _modelopt_missing("no module named modelopt")


def _modelopt_missing(reason: str) -> CannotBuildError:
    return CannotBuildError(
        f"--converter autocast needs NVIDIA ModelOpt ({reason}); install it with: pip install 'tritonkit[autocast]'",
        code="install.missing_module",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("modelopt")
    root, level = logging.getLogger(), logger.level
    handlers = root.handlers[:]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        root.handlers[:] = handlers  # ModelOpt changes logging for the whole process
