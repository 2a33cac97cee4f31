"""A repository as people have them: models that somebody wrote by hand, in all that Triton's configuration allows."""

from __future__ import annotations

from pathlib import Path

import onnx
import openvino
from onnx import TensorProto, helper

PYTHON_MODEL = """
import json
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        if config.as_dict()["input"]:
            return config
        config.add_input({"name": "words", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "echo", "data_type": "TYPE_STRING", "dims": [-1]})
        return config

    def execute(self, requests):
        words = [pb_utils.get_input_tensor_by_name(request, "words").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("echo", each)]) for each in words]
"""
CALLING_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "input")) for request in requests]

    def answer(self, tensor):
        asked = pb_utils.InferenceRequest(model_name="dynamic", requested_output_names=["scores"], inputs=[tensor])
        return pb_utils.InferenceResponse(asked.exec().output_tensors())
"""
IMAGES = 'input { name: "input" data_type: TYPE_FP32 dims: [3, 64, 64] }\n'
SCORES = 'output { name: "scores" data_type: TYPE_FP32 dims: [3] }\n'
BATCHED = "max_batch_size: 8\n" + IMAGES + SCORES
ONE_INSTANCE = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
WORDS = (
    'input { name: "words" data_type: TYPE_STRING dims: [-1] }\n'
    'output { name: "echo" data_type: TYPE_STRING dims: [-1] }\n'
)
CONFIGS = {
    "absent": None,
    "backend_alone": 'backend: "onnxruntime"\n',
    "platform_alone": 'platform: "onnxruntime_onnx"\n',
    "batch_alone": "max_batch_size: 16\n",
    "dynamic": 'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
    'input [ { name: "input" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, -1 ] } ]\n'
    'output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "names.txt" } ]\n',
    "commented": "# ours since 2019\n" + 'backend: "onnxruntime" # fast\n' + BATCHED,
    "other_file": 'backend: "onnxruntime"\ndefault_model_filename: "net.onnx"\n' + BATCHED,
    "folder_of_files": 'backend: "onnxruntime"\n' + BATCHED,
    "unbatched": 'backend: "onnxruntime"\n'
    'input { name: "input" data_type: TYPE_FP32 dims: [-1, 3, 64, 64] }\n'
    'output { name: "scores" data_type: TYPE_FP32 dims: [-1, 3] }\n',
    "reshaped": 'backend: "onnxruntime"\nmax_batch_size: 4\n'
    'input { name: "input" data_type: TYPE_FP32 dims: [12288] reshape { shape: [3, 64, 64] } }\n' + SCORES,
    "scalars_absent": None,
    "one_output_of_two": 'backend: "onnxruntime"\n' + BATCHED,
    "warmed": 'backend: "onnxruntime"\n' + BATCHED + 'model_warmup { name: "zeros" batch_size: 2 inputs { key: "input" '
    "value { data_type: TYPE_FP32 dims: [3, 64, 64] zero_data: true } } }\n"
    'model_warmup { name: "random" batch_size: 1 count: 2 inputs { key: "input" value { data_type: TYPE_FP32 '
    "dims: [3, 64, 64] random_data: true } } }\n",
    "two_versions": 'backend: "onnxruntime"\n' + BATCHED + "version_policy { specific { versions: [2, 7] } }\n",
    "version_zero": 'backend: "onnxruntime"\n' + BATCHED,
    "sequences": 'backend: "python"\nmax_batch_size: 4\n'
    + WORDS
    + "sequence_batching { max_sequence_idle_microseconds: 5000000 "
    'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } } }\n',
    "python_absent": None,
    "python_other_file": 'name: "python_other_file"\nbackend: "python"\ndefault_model_filename: "app.py"\n'
    + WORDS
    + ONE_INSTANCE,
    "decoupled": 'backend: "python"\n' + WORDS + "model_transaction_policy { decoupled: true }\n",
    "calling": 'backend: "python"\nmax_batch_size: 8\n' + IMAGES + SCORES,
    "openvino_absent": None,
    "chain": 'platform: "ensemble"\nmax_batch_size: 4\n'
    + IMAGES
    + 'output { name: "result" data_type: TYPE_FP32 dims: [-1] }\n'
    'ensemble_scheduling { step { model_name: "absent" model_version: -1 '
    'input_map { key: "input" value: "input" } output_map { key: "scores" value: "result" } } }\n',
    "unbatched_chain": 'platform: "ensemble"\n'
    'input { name: "input" data_type: TYPE_FP32 dims: [-1, 3, 64, 64] }\n'
    'output { name: "result" data_type: TYPE_FP32 dims: [-1, 3] }\n'
    'ensemble_scheduling { step { model_name: "commented" model_version: -1 '
    'input_map { key: "input" value: "input" } output_map { key: "scores" value: "result" } } }\n',
}
VERSIONS = {"two_versions": ("2", "7", "9"), "version_zero": ("0",), "absent": ("1", "3")}
PYTHON = {"sequences", "python_absent", "python_other_file", "decoupled", "calling"}
FILES = {"other_file": "net.onnx", "python_other_file": "app.py", "folder_of_files": "model.onnx/model.onnx"}
OTHER_FOLDERS = (".git", "lost+found", "docs", "scripts")
"""Folders beside the models, of which none is one."""


def write_repository(repository: Path) -> None:
    """Write all of it."""
    for name, config in CONFIGS.items():
        for version in VERSIONS.get(name, ("1",)):
            folder = repository / name / version
            folder.mkdir(parents=True)
            if "chain" not in name:
                _write_model(name, folder)
        if config is not None:
            (repository / name / "config.pbtxt").write_text(config + ONE_INSTANCE * (BATCHED in config))
    (repository / "dynamic" / "names.txt").write_text("a\nb\nc\n")
    (repository / "commented" / "README.md").write_text("A model.")
    (repository / "commented" / "notebooks").mkdir()
    for name in OTHER_FOLDERS:
        (repository / name).mkdir()
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (repository / "docs" / "index.md").write_text("# Models\n")
    (repository / "README.md").write_text("# Models\n")


def _write_model(name: str, version: Path) -> None:
    if name in PYTHON:
        text = CALLING_MODEL if name == "calling" else PYTHON_MODEL
        (version / FILES.get(name, "model.py")).write_text(text)
        return
    if name.startswith("openvino"):
        onnx.save(graph(outputs=1), version / "source.onnx")
        openvino.save_model(openvino.convert_model(version / "source.onnx"), version / "model.xml")
        (version / "source.onnx").unlink()
        return
    path = version / FILES.get(name, "model.onnx")
    path.parent.mkdir(exist_ok=True)
    onnx.save(scalars() if name.startswith("scalars") else graph(2 if name == "one_output_of_two" else 1), path)


def graph(outputs: int) -> onnx.ModelProto:
    """The mean of each channel of a picture of any size; with two outputs, the input's shape too."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["means"]),
        helper.make_node("Flatten", ["means"], ["scores"]),
        helper.make_node("Shape", ["input"], ["shape"]),
    ]
    results = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [4]),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "height", "width"])
    return _model(helper.make_graph(nodes[: outputs + 1], "means", [image], results[:outputs]))


def scalars() -> onnx.ModelProto:
    """A number for each number."""
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N"]) for name in "xy"]
    return _model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negative", ends[:1], ends[1:]))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
