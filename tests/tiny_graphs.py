"""Graphs small enough to be written by hand: they answer a picture of 8 x 8 pixels with three probabilities."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper

from tests.task_specs import COLOURS
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import METADATA_KEY, Architecture, ModelSpec, Normalize, TensorSpec, image_input

SIDE = 8


def colour_spec(name: str) -> ModelSpec:
    preprocess = Preprocess(height=SIDE, width=SIDE)
    return ModelSpec(
        **COLOURS.model_dump(),
        name=name,
        architecture=Architecture(name="test_resnet"),
        input=image_input(preprocess),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(3,)),),
        preprocess=preprocess,
        normalize=Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    )


def save_brightness_mask(path: Path, side: int = 64, level: float = 128) -> Path:
    """Save a segmentation model: pixels brighter than `level` are a person."""
    preprocess = Preprocess(height=side, width=side, fit="squash")
    spec = ModelSpec(
        name="bright",
        task="segmentation",
        labels=("background", "person"),
        architecture=Architecture(library="graph", name="bright"),
        input=image_input(preprocess),
        outputs=(TensorSpec(name="mask", dtype="UINT8", shape=(side, side)),),
        preprocess=preprocess,
        normalize=Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["grey"], keepdims=0),
            helper.make_node("Greater", ["grey", "level"], ["bright"]),
            helper.make_node("Cast", ["bright"], ["mask"], to=TensorProto.UINT8),
        ],
        spec.name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, ["n", side, side])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [3]),
            helper.make_tensor("level", TensorProto.FLOAT, [], [level]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path


def save_colour_graph(path: Path, spec: ModelSpec, *nodes: NodeProto, **constants: list[int]) -> Path:
    """Save a graph whose nodes make `probabilities` of `means`, those of the picture's colours."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            *nodes,
        ],
        spec.name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in {"axes": [1, 2], **constants}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path
