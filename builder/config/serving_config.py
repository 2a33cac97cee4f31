"""Write serving settings into Triton's `ModelConfig`."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2

from builder.config.serving import Accelerator, Batching, CudaGraphs, Instances, Serving, VersionPolicy
from builder.config.warmup import add_warmup, remove_warmup
from tritonkit.errors import InputError
from tritonkit.repository.config_rules import ACCELERATORS, config_problems
from tritonkit.spec import TensorSpec
from tritonkit.triton.backends import ModelConfig

_KIND = model_config_pb2.ModelInstanceGroup.Kind
_ACTION = model_config_pb2.ModelQueuePolicy.TimeoutAction


def apply_serving(config: ModelConfig, serving: Serving, image: TensorSpec) -> None:
    """Write the settings into a configuration that has the tensors and the largest batch of the artifact.

    An existing warm-up is adapted to the image size and the largest batch.
    """
    if serving.instances is not None:
        _set_instances(config, serving.instances)
    _set_batching(config, serving.batching)
    if serving.cuda_graphs is not None:
        _set_cuda_graphs(config, serving.cuda_graphs, image)
    if serving.accelerators is not None:
        _set_accelerators(config, serving.accelerators)
    if serving.version_policy is not None:
        _set_version_policy(config, serving.version_policy)
    if serving.response_cache is not None:
        config.ClearField("response_cache")
        config.response_cache.enable = serving.response_cache
    had_warmup = remove_warmup(config)
    if had_warmup if serving.warmup is None else serving.warmup:
        add_warmup(config, image, model_config_pb2.DataType.Value(f"TYPE_{image.dtype}"))


def check_config(config: ModelConfig) -> None:
    """Raise InputError that lists all settings that Triton would refuse."""
    if problems := list(config_problems(config)):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(
            f"{config.name}: Triton would refuse this configuration:\n{lines}",
            code="config.refused_by_triton",
            problems=problems,
        )


def _set_instances(config: ModelConfig, settings: Instances) -> None:
    """Change the first instance group and delete the others."""
    del config.instance_group[1:]
    group = config.instance_group[0] if config.instance_group else config.instance_group.add(count=1)
    if settings.count is not None:
        group.count = settings.count
    if settings.kind is not None:
        group.kind = _KIND.Value(f"KIND_{settings.kind.upper()}")
    if settings.gpus is not None or settings.kind == "cpu":
        group.gpus[:] = settings.gpus or ()
    if settings.gpus and settings.kind is None:
        group.kind = _KIND.Value("KIND_GPU")


def _set_batching(config: ModelConfig, settings: Batching) -> None:
    if settings.enabled is False:
        config.ClearField("dynamic_batching")
        return
    if settings.enabled or settings.has_settings:
        config.dynamic_batching.SetInParent()
    batching = config.dynamic_batching
    if settings.max_queue_delay_us is not None:
        batching.max_queue_delay_microseconds = settings.max_queue_delay_us
    if settings.preferred_sizes is not None:
        batching.preferred_batch_size[:] = settings.preferred_sizes
    for name, value in (
        ("default_timeout_microseconds", settings.timeout_us),
        ("timeout_action", settings.timeout_action and _ACTION.Value(settings.timeout_action.upper())),
        ("allow_timeout_override", settings.allow_timeout_override),
        ("max_queue_size", settings.max_queue_size),
    ):
        if value is not None:
            setattr(batching.default_queue_policy, name, value)


def _set_cuda_graphs(config: ModelConfig, settings: CudaGraphs, image: TensorSpec) -> None:
    """List each size: with dynamic batching Triton would capture only the preferred sizes and the largest."""
    cuda = config.optimization.cuda
    cuda.graphs = settings.enabled
    del cuda.graph_spec[:]
    for size in settings.sizes(config.max_batch_size) if settings.enabled else ():
        cuda.graph_spec.add(batch_size=size).input[image.name].dim.extend(image.shape)


def fit_graphs(config: ModelConfig, image: TensorSpec) -> None:
    """Set the image size in the CUDA graphs of a configuration that contain one."""
    for spec in config.optimization.cuda.graph_spec if config.optimization.HasField("cuda") else ():
        for graph in (spec, spec.graph_lower_bound):
            if graph.input:
                graph.ClearField("input")
                graph.input[image.name].dim.extend(image.shape)


def _set_accelerators(config: ModelConfig, accelerators: tuple[Accelerator, ...]) -> None:
    config.optimization.ClearField("execution_accelerators")
    for accelerator in accelerators:
        section = config.optimization.execution_accelerators
        entries = (
            section.cpu_execution_accelerator
            if ACCELERATORS.get(accelerator.name) == "cpu"
            else section.gpu_execution_accelerator
        )
        entries.add(name=accelerator.name, parameters=accelerator.parameters)


def _set_version_policy(config: ModelConfig, policy: VersionPolicy) -> None:
    config.ClearField("version_policy")
    if policy.versions:
        config.version_policy.specific.versions.extend(policy.versions)
    elif policy.latest is not None:
        config.version_policy.latest.num_versions = policy.latest
    else:
        config.version_policy.all.SetInParent()
