"""`config.pbtxt` is written with Triton's protobuf, reads back the same, and keeps tuned settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config.triton_config import config_for, tensors_of
from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import ServingOptions
from tritonkit.spec import METADATA_KEY, Lineage, ModelSpec, TensorSpec
from tritonkit.triton.backends import BackendFiles, ModelConfig
from tritonkit.triton.model_config import config_from_text, config_to_text, read_config_file


def test_config_describes_the_artifact(spec: ModelSpec) -> None:
    config = config_from_text(config_to_text(config_for(spec, ((spec.input,), spec.outputs), 16, 4)), "x")
    assert (config.name, config.backend, config.max_batch_size) == ("pets", "onnxruntime", 16)
    assert tensors_of(config.input) == (spec.input,)
    assert tensors_of(config.output) == spec.outputs
    assert config.output[0].label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, "x") == spec


def test_config_contains_nothing_about_the_training_machine(spec: ModelSpec) -> None:
    secretive = spec.model_copy(update={"lineage": Lineage(config={"path": "/home/me/secret"})})
    assert "secret" not in secretive.public().to_json()
    assert "secret" in secretive.to_json()


def test_config_keeps_tuned_settings_when_a_version_is_added(spec: ModelSpec) -> None:
    interface = ((spec.input,), spec.outputs)
    present = config_for(spec, interface, 16, 1)
    present.instance_group[0].count = 3
    present.dynamic_batching.max_queue_delay_microseconds = 250
    config = config_for(spec, interface, 16, 2, present)
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert len(config.input) == 1


def test_config_is_refused_when_the_artifact_disagrees_with_the_spec(spec: ModelSpec) -> None:
    other = TensorSpec(name="probabilities", dtype="FP32", shape=(4,))
    with raises(ArtifactError, "artifact.interface", "probabilities FP32 [N, 4]"):
        config_for(spec, ((spec.input,), (other,)), 16, 1)


def test_config_keeps_labels_with_any_characters(spec: ModelSpec) -> None:
    odd = spec.model_copy(update={"labels": ('say "cat"', "naïve \\ chien", "猫\t")})
    config = config_from_text(config_to_text(config_for(odd, ((odd.input,), odd.outputs), 1, 1)), "x")
    assert ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, "x").labels == odd.labels


def config_with_user_settings(spec: ModelSpec, user_text: str, serving: dict[str, int] | None = None) -> ModelConfig:
    """A configuration up to batch 16, with the settings of a user's file and of the command line."""
    interface, settings = ((spec.input,), spec.outputs), ServingOptions(**(serving or {}))  # type: ignore[arg-type]
    return config_for(spec, interface, 16, 1, user_config=config_from_text(user_text, "x"), serving=settings)


USER_CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 8
default_model_filename: "model.onnx"
output { name: "probabilities" }
instance_group { count: 3 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 700 }
optimization { graph { level: 1 } }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters { key: "model.json" value { string_value: "of another model" } }
version_policy { latest { num_versions: 2 } }
"""


def test_user_config_overrides_defaults_and_is_overridden_by_options(spec: ModelSpec) -> None:
    config = config_with_user_settings(spec, USER_CONFIG, {"instances": 5})
    assert (config.max_batch_size, config.instance_group[0].count) == (8, 5)
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.optimization.graph.level == 1
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, "x") == spec
    assert (config.backend, config.platform, config.default_model_filename) == ("onnxruntime", "", "")
    assert tensors_of(config.input) == (spec.input,)
    assert config.version_policy.latest.num_versions == 2


def test_user_config_may_be_the_published_config(spec: ModelSpec) -> None:
    interface = ((spec.input,), spec.outputs)
    published = config_for(spec, interface, 16, 1, serving=ServingOptions(warmup=True, queue_size=9))
    assert config_for(spec, interface, 16, 1, user_config=published) == published


def test_user_config_is_refused_with_all_contradictions(spec: ModelSpec) -> None:
    with raises(InputError, "config.contradicts_artifact") as caught:
        config_with_user_settings(
            spec,
            """
            name: "cars" backend: "tensorrt" max_batch_size: 64 default_model_filename: "model.plan"
            input { name: "image" data_type: TYPE_FP32 dims: [3, 32, 32] reshape { shape: [3072] } }
            output { name: "scores" }
            output { name: "probabilities" label_filename: "classes.txt" }
            sequence_batching { }
            cc_model_filenames { key: "8.6" value: "a.plan" }
            model_warmup { name: "w" inputs { key: "image" value { input_data_file: "mine" } } }
            """,
        )
    values = [
        ("config.name", ("'cars'", "'pets'")),
        ("config.backend", ("'tensorrt'", "'onnxruntime'")),
        ("config.max_batch_size", ("64", "16")),
        ("config.not_for_a_network", ("sequence_batching",)),
        ("config.data_type", ("'image'", "TYPE_FP32", "TYPE_UINT8")),
        ("config.dims", ("'image'", "[3, 32, 32]", "[32, 32, 3]")),
        ("config.tensor_field", ("'image'", "reshape")),
        ("config.unknown_tensor", ("'scores'", "'probabilities'")),
        ("config.label_file", ("'probabilities'", "'classes.txt'", "'labels.txt'")),
        ("config.model_file", ("'model.plan'", "'model.onnx'")),
        ("config.plan_file", ("'8.6'", "'a.plan'")),
        ("config.warmup_file", ("'mine'",)),
    ]
    assert [problem.code for problem in caught.value.problems] == [code for code, _ in values]
    for (_, parts), problem in zip(values, caught.value.problems, strict=True):
        assert all(part in problem.message for part in parts), problem.message
        assert problem.message in str(caught.value)


def test_user_config_is_refused_when_the_artifact_needs_another_parameter(spec: ModelSpec) -> None:
    loading = BackendFiles("openvino", parameters={"TARGET_DEVICE": "CPU"})
    user_text = config_from_text('parameters { key: "TARGET_DEVICE" value { string_value: "GPU" } }', "x")
    with raises(InputError, "config.parameter", "'TARGET_DEVICE'", "'GPU'", "'CPU'"):
        config_for(spec, ((spec.input,), spec.outputs), 16, 1, loading=loading, user_config=user_text)


def test_user_config_is_refused_when_triton_would_refuse_it(spec: ModelSpec) -> None:
    with raises(InputError, "config.preferred_batch"):
        config_with_user_settings(spec, "max_batch_size: 8 dynamic_batching { preferred_batch_size: 16 }")


def test_invalid_user_config_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.pbtxt"
    path.write_text("max_batch_size: 8\ninstances: 2")
    with raises(ArtifactError, "config_pbtxt.syntax", "mine.pbtxt", "(2:1"):
        read_config_file(path)


def test_file_name_is_set_only_when_it_is_not_the_default(spec: ModelSpec) -> None:
    interface = ((spec.input,), spec.outputs)
    config = {
        loading: config_for(spec, interface, 16, 1, loading=BackendFiles(*loading)).default_model_filename
        for loading in [("openvino", "model.xml"), ("tensorrt", None), ("pytorch", "traced.pt")]
    }
    assert list(config.values()) == ["", "", "traced.pt"]
    plans = BackendFiles("tensorrt", plans={"8.6": "sm86.plan", "9.0": "sm90.plan"})
    assert dict(config_for(spec, interface, 16, 1, loading=plans).cc_model_filenames) == plans.plans


@pytest.mark.parametrize("loading", [BackendFiles("tensorrt"), BackendFiles(filename="small.onnx")])
def test_version_is_refused_when_older_versions_would_not_load(spec: ModelSpec, loading: BackendFiles) -> None:
    interface = ((spec.input,), spec.outputs)
    present = config_for(spec, interface, 16, 1)
    with raises(InputError, "config.other_backend"):
        config_for(spec, interface, 16, 2, present, loading=loading)
    config = config_for(spec, interface, 16, 2, present, loading=loading, other_versions=())
    assert config.backend == loading.backend


def test_version_is_refused_when_older_versions_would_compute_differently(spec: ModelSpec) -> None:
    interface = ((spec.input,), spec.outputs)
    exact, coarse = BackendFiles("openvino"), BackendFiles("openvino", parameters={"HINT_BF16": "YES"})
    for before, after in ((exact, coarse), (coarse, exact)):
        present = config_for(spec, interface, 16, 1, loading=before)
        with raises(InputError, "config.other_backend", "HINT_BF16 YES"):
            config_for(spec, interface, 16, 2, present, loading=after)
        assert config_for(spec, interface, 16, 2, present, loading=before).backend == "openvino"
    without_older = config_for(
        spec, interface, 16, 2, config_for(spec, interface, 16, 1, loading=coarse), loading=exact, other_versions=()
    )
    assert "HINT_BF16" not in without_older.parameters
