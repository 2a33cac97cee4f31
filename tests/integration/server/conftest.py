"""Repositories that are wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CONFIG = """
name: "fussy" backend: "onnxruntime" max_batch_size: 8
input { name: "index" data_type: TYPE_INT64 dims: [1] }
output { name: "value" data_type: TYPE_FP32 dims: [1] }
dynamic_batching { max_queue_delay_microseconds: 200000 }
"""


@pytest.fixture
def fussy_repository(tmp_path: Path) -> Path:
    """A model that looks numbers up in a table of ten: ONNX Runtime fails on any other index."""
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32) * 10, "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        "fussy",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 1])],
        [table],
    )
    folder = tmp_path / "repository" / "fussy" / "1"
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    (folder.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "repository"
