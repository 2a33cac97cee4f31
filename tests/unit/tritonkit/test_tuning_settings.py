"""Settings of a configuration: read, applied, and read again."""

from __future__ import annotations

import pytest

from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.repository.config_rules import check_config
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.model_config import config_from_text

CONFIG = """
backend: "%s"
max_batch_size: 16
input { name: "image" data_type: TYPE_UINT8 dims: [8, 8, 3] }
dynamic_batching { preferred_batch_size: [4, 16] max_queue_delay_microseconds: 100 }
parameters { key: "labels" value { string_value: "kept" } }
model_warmup { name: "golden image, batch 1" batch_size: 1 inputs { key: "image" value { zero_data: true } } }
model_warmup { name: "golden image, batch 16" batch_size: 16 inputs { key: "image" value { zero_data: true } } }
"""


@pytest.mark.parametrize(
    ("backend", "parameter", "number"),
    [
        ("onnxruntime", "intra_op_thread_count", "2"),
        ("openvino", "INFERENCE_NUM_THREADS", "6"),
        ("pytorch", "INTRA_OP_THREAD_COUNT", "2"),
    ],
)
def test_threads_are_written_as_each_backend_reads_them(backend: str, parameter: str, number: str) -> None:
    config = config_from_text(CONFIG % backend, "x")
    settings = ServingSettings(max_batch=8, instances=3, threads=2, delay_us=500)
    applied = settings.applied_to(config)
    assert applied.parameters[parameter].string_value == number
    assert applied.parameters["labels"].string_value == "kept"
    assert ServingSettings.from_config(applied) == settings
    assert config.max_batch_size == 16


def test_a_smaller_batch_fits_preferred_sizes_and_the_warm_up() -> None:
    settings = ServingSettings(max_batch=4, instances=1, preferred=(2, 4))
    applied = settings.applied_to(config_from_text(CONFIG % "onnxruntime", "x"))
    check_config(applied)
    assert [(sample.name, sample.batch_size) for sample in applied.model_warmup] == [
        ("golden image, batch 1", 1),
        ("golden image, batch 4", 4),
    ]
    lone = settings.model_copy(update={"max_batch": 1, "preferred": ()})
    assert len(lone.applied_to(config_from_text(CONFIG % "onnxruntime", "x")).model_warmup) == 1


def test_cuda_graphs_are_captured_for_powers_of_two_and_can_be_removed() -> None:
    config = config_from_text(CONFIG % "tensorrt", "x")
    graphs = ServingSettings(max_batch=12, instances=1, cuda_graphs=True, profile="1")
    applied = graphs.applied_to(config)
    check_config(applied)
    assert [graph.batch_size for graph in applied.optimization.cuda.graph_spec] == [1, 2, 4, 8, 12]
    assert ServingSettings.from_config(applied) == graphs
    without = graphs.model_copy(update={"cuda_graphs": False}).applied_to(applied)
    assert not without.optimization.cuda.graph_spec


def test_dynamic_batching_can_be_off() -> None:
    settings = ServingSettings(max_batch=8, instances=1, delay_us=None)
    applied = settings.applied_to(config_from_text(CONFIG % "onnxruntime", "x"))
    assert not applied.HasField("dynamic_batching")
    assert ServingSettings.from_config(applied) == settings
    assert settings.words() == "1 instance, batch 8, no batching"


def test_several_instance_groups_have_no_single_count() -> None:
    config = config_from_text("instance_group { count: 1 } instance_group { count: 2 }", "x")
    with raises(InputError, "config.several_instance_groups"):
        ServingSettings.from_config(config)
