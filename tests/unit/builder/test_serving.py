"""Serving options become Triton fields, or one error with all problems; a real Triton loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.config.triton_config import config_for
from builder.repository.lint import check_repository
from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.export_options import ServingOptions
from tritonkit.options import options_from
from tritonkit.repository.config_rules import unverified_accelerators
from tritonkit.spec import ModelSpec
from tritonkit.triton.backends import BackendFiles, ModelConfig
from tritonkit.triton.model_config import config_from_text, config_to_text, versions_loaded

PLAN = BackendFiles("tensorrt")


def serving_from(**options: Any) -> ServingOptions:
    """Read serving options of the command line."""
    return options_from(ServingOptions, options)


def written_config(
    spec: ModelSpec, serving: ServingOptions, loading: BackendFiles = PLAN, present: ModelConfig | None = None
) -> ModelConfig:
    """The configuration of a model, after checking that its text reads back the same."""
    interface = ((spec.input,), spec.outputs)
    config = config_for(spec, interface, 16, 1, present, loading=loading, serving=serving)
    assert config_from_text(config_to_text(config), "x") == config
    return config


def test_options_are_written_as_triton_fields(spec: ModelSpec) -> None:
    options = serving_from(
        instances=2,
        kind="gpu",
        gpus="0,1",
        queue_delay_us=300,
        preferred_batch="4,8",
        queue_timeout_ms=1.5,
        queue_timeout_action="delay",
        queue_timeout_override=True,
        queue_size=64,
        cuda_graphs="1,8",
        warmup=True,
        versions="latest:2",
        response_cache=True,
    )
    config = written_config(spec, options)
    (group,) = config.instance_group
    assert (group.count, group.kind, list(group.gpus)) == (2, type(group).KIND_GPU, [0, 1])
    assert config.dynamic_batching.max_queue_delay_microseconds == 300
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.default_timeout_microseconds, policy.timeout_action) == (1500, type(policy).DELAY)
    assert (policy.allow_timeout_override, policy.max_queue_size) == (True, 64)
    assert config.optimization.cuda.graphs
    assert [graph.batch_size for graph in config.optimization.cuda.graph_spec] == [1, 8]
    assert list(config.optimization.cuda.graph_spec[0].input["image"].dim) == [32, 32, 3]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 16]
    assert config.version_policy.latest.num_versions == 2
    assert config.response_cache.enable


def test_default_serving_is_only_dynamic_batching(spec: ModelSpec) -> None:
    config = written_config(spec, serving_from())
    assert config.HasField("dynamic_batching")
    for name in ("optimization", "version_policy", "response_cache"):
        assert not config.HasField(name)
    assert not config.instance_group
    assert not config.model_warmup


def test_options_are_refused_all_at_once() -> None:
    with pytest.raises(InputError) as raised:
        serving_from(
            instances=0,
            kind="tpu",
            gpus="0,x",
            queue_delay_us=-1,
            queue_timeout_ms=-5,
            queue_timeout_action="drop",
            cuda_graphs="1,0",
            versions="newest",
            accelerator=["tensorrt:precision_mode", "openvino"],
        )
    assert [(problem.message.partition(":")[0], problem.code) for problem in raised.value.problems] == [
        ("--instances 0", "option.too_small"),
        ("--kind tpu", "option.unknown_choice"),
        ("--gpus 0,x", "option.numbers"),
        ("--queue-delay-us -1", "option.too_small"),
        ("--queue-timeout-ms -5", "option.milliseconds"),
        ("--queue-timeout-action drop", "option.unknown_choice"),
        ("--cuda-graphs 1,0", "option.numbers"),
        ("--versions newest", "option.numbers"),
        ("--accelerator tensorrt", "option.accelerator_parameters"),
    ]


@pytest.mark.parametrize(
    ("option", "maximum", "shape"),
    [
        ("instances", 2**31 - 1, None),
        ("gpus", 2**31 - 1, "0,{}"),
        ("preferred_batch", 2**31 - 1, "{}"),
        ("cuda_graphs", 2**31 - 1, "1,{}"),
        ("queue_size", 2**32 - 1, None),
        ("versions", 2**32 - 1, "latest:{}"),
        ("versions", 2**63 - 1, "1,{}"),
        ("queue_delay_us", 2**64 - 1, None),
    ],
)
def test_number_is_refused_when_it_is_too_large_for_triton(
    spec: ModelSpec, option: str, maximum: int, shape: str | None
) -> None:
    largest, beyond = (shape.format(number) if shape else number for number in (maximum, maximum + 1))
    roomy = config_for(
        spec, ((spec.input,), spec.outputs), 2**31 - 1, 1, loading=PLAN, serving=serving_from(**{option: largest})
    )
    assert config_from_text(config_to_text(roomy), "x") == roomy
    with raises(InputError, "option.too_large") as caught:
        serving_from(**{option: beyond})
    assert str(caught.value).startswith(f"--{option.replace('_', '-')} {beyond}: ")
    assert str(maximum) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"kind": "cpu", "gpus": "0"}, "option.gpus_on_cpu"),
        ({"dynamic_batching": False, "queue_delay_us": 5}, "option.batching_off"),
        ({"kind": "cpu", "accelerator": ["cuda"]}, "option.accelerator_on_cpu"),
        ({"queue_timeout_ms": 0.0001}, "option.below_microsecond"),
        ({"gpus": "1,1"}, "option.repeated_number"),
        ({"accelerator": ["none", "cuda"]}, "option.unknown_accelerator"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, object], code: str) -> None:
    with raises(InputError, code):
        serving_from(**options)


@pytest.mark.parametrize(("largest", "sizes"), [(24, [1, 2, 4, 8, 16, 24]), (1, [1])])
def test_cuda_graphs_are_captured_at_powers_of_two_by_default(spec: ModelSpec, largest: int, sizes: list[int]) -> None:
    serving = serving_from(cuda_graphs="on")
    config = config_for(spec, ((spec.input,), spec.outputs), largest, 1, loading=PLAN, serving=serving)
    assert [graph.batch_size for graph in config.optimization.cuda.graph_spec] == sizes


def test_refused_settings_are_reported_all_at_once(spec: ModelSpec) -> None:
    options = serving_from(preferred_batch="4,64", cuda_graphs="32", accelerator=["tensorrt:precision_mode=FP8"])
    with pytest.raises(InputError) as raised:
        written_config(spec, options, BackendFiles())
    assert [problem.code for problem in raised.value.problems] == [
        "config.preferred_batch",
        "config.cuda_graph_backend",
        "config.cuda_graph_batch",
        "config.accelerator_precision",
    ]
    assert all(part in str(raised.value) for part in ("64", "16", "32", "'FP8'"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("instance_group { kind: KIND_MODEL gpus: 0 }", "config.instance_gpus"),
        ("instance_group { kind: KIND_CPU }", "config.instance_kind"),
        ("dynamic_batching { priority_levels: 2 }", "config.default_priority"),
        ("dynamic_batching { preserve_ordering: true priority_levels: 2 }", "config.ordering_priorities"),
        ("version_policy { latest { } }", "config.no_version"),
        ("version_policy { specific { } }", "config.no_version"),
        ('cc_model_filenames { key: "sm86" value: "a.plan" }', "config.compute_capability"),
        ('model_warmup { name: "w" batch_size: 99 }', "config.warmup_batch"),
        (
            'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }',
            "config.accelerator_backend",
        ),
        ("model_transaction_policy { decoupled: true } response_cache { enable: true }", "config.cache_decoupled"),
        ("ensemble_scheduling { } instance_group { count: 1 }", "config.ensemble_instances"),
    ],
)
def test_check_reports_what_triton_would_refuse(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/config.pbtxt").write_text(f'platform: "tensorrt_plan" max_batch_size: 16 {text}')
    findings = [finding for finding in check_repository(tmp_path) if finding.code == code]
    is_ignored = "accelerators" in text or "cc_model" in text  # Triton loads a third-party model with these settings
    assert [finding.severity for finding in findings] == ["warning" if is_ignored else "error"]


def test_options_change_only_their_own_settings(spec: ModelSpec) -> None:
    options = serving_from(instances=3, kind="gpu", gpus="0", queue_delay_us=100, queue_size=8, warmup=True)
    present = written_config(spec, options)
    config = written_config(spec, serving_from(instances=2, queue_size=4), present=present)
    assert (config.instance_group[0].count, list(config.instance_group[0].gpus)) == (2, [0])
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 4
    assert [sample.batch_size for sample in config.model_warmup] == [1, 16]
    off = written_config(
        spec, serving_from(warmup=False, dynamic_batching=False, kind="auto", versions="all"), present=config
    )
    assert not off.model_warmup
    assert not off.HasField("dynamic_batching")
    assert versions_loaded(off, [1, 2, 5]) == {1, 2, 5}


def test_warmup_and_graphs_fit_when_the_largest_batch_shrinks(spec: ModelSpec) -> None:
    present = written_config(spec, serving_from(cuda_graphs="on", warmup=True, preferred_batch="2,16"))
    config = config_for(spec, ((spec.input,), spec.outputs), 4, 2, present, loading=PLAN)
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
    assert [graph.batch_size for graph in config.optimization.cuda.graph_spec] == [1, 2, 4]
    assert list(config.dynamic_batching.preferred_batch_size) == [2]


def test_cuda_graphs_get_the_new_size_when_a_version_takes_larger_images(spec: ModelSpec) -> None:
    present = written_config(spec, serving_from(cuda_graphs="1,8"))
    bound = present.optimization.cuda.graph_spec[1].graph_lower_bound
    bound.batch_size = 2
    bound.input["image"].dim.extend([32, 32, 3])
    present.optimization.cuda.graph_spec.add(batch_size=4)
    image = spec.input.model_copy(update={"name": "picture", "shape": (64, 64, 3)})
    larger = spec.model_copy(update={"input": image})
    graphs = written_config(larger, serving_from(), present=present).optimization.cuda.graph_spec
    assert [graph.batch_size for graph in graphs] == [1, 8, 4]
    for captured in (graphs[0], graphs[1], graphs[1].graph_lower_bound):
        assert {name: list(shape.dim) for name, shape in captured.input.items()} == {"picture": [64, 64, 3]}
    assert not graphs[2].input


@pytest.mark.parametrize(
    ("dims", "code"),
    [
        ('"image" value { dim: [28, 28, 3] }', "config.cuda_graph_size"),
        ('"image" value { dim: [32, 32] }', "config.cuda_graph_size"),
        ('"other" value { dim: [32, 32, 3] }', "config.cuda_graph_input"),
    ],
)
def test_user_config_is_refused_when_its_cuda_graphs_have_another_size(spec: ModelSpec, dims: str, code: str) -> None:
    text = "optimization {{ cuda {{ graphs: true graph_spec {{ batch_size: 8 input {{ key: {} }} }} }} }}"
    user_config = config_from_text(text.format(dims), "x")
    with raises(InputError, code):
        config_for(spec, ((spec.input,), spec.outputs), 16, 1, loading=PLAN, user_config=user_config)


def test_accelerators_are_written_by_device_and_reported_as_unverified(spec: ModelSpec) -> None:
    words = ["tensorrt:precision_mode=FP16,trt_engine_cache_enable=1", "openvino"]
    config = written_config(spec, serving_from(accelerator=words), BackendFiles())
    section = config.optimization.execution_accelerators
    assert dict(section.gpu_execution_accelerator[0].parameters)["precision_mode"] == "FP16"
    assert [entry.name for entry in section.cpu_execution_accelerator] == ["openvino"]
    assert [line.partition(":")[0] for line in unverified_accelerators(config)] == [
        "execution accelerator tensorrt in FP16",
        "execution accelerator openvino",
    ]
    assert (
        unverified_accelerators(written_config(spec, serving_from(accelerator=["none"]), BackendFiles(), config)) == []
    )


@pytest.mark.parametrize(
    ("policy", "loads"),
    [
        (None, {7}),
        ("latest:2", {5, 7}),
        ("2,9", {2}),
        ("all", {2, 5, 7}),
    ],
)
def test_version_policy_selects_the_loaded_versions(spec: ModelSpec, policy: str | None, loads: set[int]) -> None:
    assert versions_loaded(written_config(spec, serving_from(versions=policy)), [2, 5, 7]) == loads
