"""Write serving settings into Triton's `ModelConfig`.

Warm-up: Triton runs a golden image at batch 1 and at the largest batch before the model is ready. It reads
`input_data_file` from `<model folder>/warmup/` as the raw bytes of one image; for a batch of N it repeats them N times
(core, backend_model_instance.cc).
"""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2

from tritonkit.export_options import ServingOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.config_rules import ACCELERATORS
from tritonkit.spec import TensorSpec
from tritonkit.system.files import atomic_write
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.model_config import WARMUP_FOLDER, warmup_sizes

WARMUP_FILE = "golden_image.raw"
_SAMPLE = "golden image, batch "
_KIND = model_config_pb2.ModelInstanceGroup.Kind
_ACTION = model_config_pb2.ModelQueuePolicy.TimeoutAction


def apply_serving(config: ModelConfig, serving: ServingOptions, image: TensorSpec) -> None:
    """Write the settings into a configuration that has the tensors and the largest batch of the artifact.

    An existing warm-up is adapted to the image size and the largest batch.
    """
    if (serving.instances, serving.kind, serving.gpus) != (None, None, None):
        _set_instances(config, serving)
    _set_batching(config, serving)
    if serving.cuda_graphs is not None:
        largest, sizes = config.max_batch_size, serving.cuda_graphs
        if sizes is True:
            sizes = tuple({1 << power for power in range(largest.bit_length())} | {largest})
        config.optimization.cuda.graphs = bool(sizes)
        del config.optimization.cuda.graph_spec[:]
        # Each one: with dynamic batching Triton would capture only the preferred sizes.
        for size in sorted(sizes or ()):
            config.optimization.cuda.graph_spec.add(batch_size=size).input[image.name].dim.extend(image.shape)
    if serving.accelerator is not None:
        config.optimization.ClearField("execution_accelerators")
        for text in serving.accelerator:  # `NAME` or `NAME:key=value,key=value`
            name, _, pairs = text.partition(":")
            section = config.optimization.execution_accelerators
            is_cpu = ACCELERATORS.get(name) == "cpu"
            entries = section.cpu_execution_accelerator if is_cpu else section.gpu_execution_accelerator
            entries.add(name=name, parameters=dict(pair.split("=", 1) for pair in pairs.split(",") if pair))
    if serving.versions is not None:
        config.ClearField("version_policy")
        if serving.versions == "all":
            config.version_policy.all.SetInParent()
        elif serving.versions.startswith("latest:"):
            config.version_policy.latest.num_versions = int(serving.versions.removeprefix("latest:"))
        else:
            config.version_policy.specific.versions.extend(map(int, serving.versions.split(",")))
    if serving.response_cache is not None:
        config.ClearField("response_cache")
        config.response_cache.enable = serving.response_cache
    _set_warmup(config, serving, image)


def _set_instances(config: ModelConfig, serving: ServingOptions) -> None:
    """Change the first instance group and delete the others."""
    del config.instance_group[1:]
    group = config.instance_group[0] if config.instance_group else config.instance_group.add(count=1)
    if serving.instances is not None:
        group.count = serving.instances
    if serving.kind is not None:
        group.kind = _KIND.Value(f"KIND_{serving.kind.upper()}")
    if serving.gpus is not None or serving.kind == "cpu":
        group.gpus[:] = serving.gpus or ()
    if serving.gpus and serving.kind is None:
        group.kind = _KIND.Value("KIND_GPU")


def _set_batching(config: ModelConfig, serving: ServingOptions) -> None:
    if serving.dynamic_batching is False:
        config.ClearField("dynamic_batching")
        return
    if serving.dynamic_batching or serving.queue_settings:
        config.dynamic_batching.SetInParent()
    batching, timeout_ms = config.dynamic_batching, serving.queue_timeout_ms
    if serving.queue_delay_us is not None:
        batching.max_queue_delay_microseconds = serving.queue_delay_us
    if serving.preferred_batch is not None:
        batching.preferred_batch_size[:] = serving.preferred_batch
    for name, value in (
        ("default_timeout_microseconds", None if timeout_ms is None else round(timeout_ms * 1000)),
        ("timeout_action", serving.queue_timeout_action and _ACTION.Value(serving.queue_timeout_action.upper())),
        ("allow_timeout_override", serving.queue_timeout_override),
        ("max_queue_size", serving.queue_size),
    ):
        if value is not None:
            setattr(batching.default_queue_policy, name, value)


def _set_warmup(config: ModelConfig, serving: ServingOptions, image: TensorSpec) -> None:
    """Replace the warm-up with the golden image, at batch 1 and at the largest batch."""
    others = [sample for sample in config.model_warmup if not sample.name.startswith(_SAMPLE)]
    had_warmup = len(others) < len(config.model_warmup)
    del config.model_warmup[:]
    config.model_warmup.extend(others)
    if had_warmup if serving.warmup is None else serving.warmup:
        for size in sorted({1, config.max_batch_size}):
            sample = config.model_warmup.add(name=f"{_SAMPLE}{size}", batch_size=size)
            entry = sample.inputs[image.name]
            entry.data_type = model_config_pb2.DataType.Value(f"TYPE_{image.dtype}")
            entry.input_data_file = WARMUP_FILE
            entry.dims.extend(image.shape)


def fit_graphs(config: ModelConfig, image: TensorSpec) -> None:
    """Set the image size in the CUDA graphs of a configuration that contain one."""
    for spec in config.optimization.cuda.graph_spec if config.optimization.HasField("cuda") else ():
        for graph in (spec, spec.graph_lower_bound):
            if graph.input:
                graph.ClearField("input")
                graph.input[image.name].dim.extend(image.shape)


def write_warmup(model: Path, images: ImageArray) -> None:
    """Write the first image, uint8 [N, H, W, 3], into the warm-up folder of a model. The file may be a hard link."""
    with atomic_write(model / WARMUP_FOLDER / WARMUP_FILE) as temporary:
        temporary.write_bytes(images[0].tobytes())


def uses_golden_image(config: ModelConfig) -> bool:
    """Whether a `ModelConfig` reads the golden image from the warm-up folder."""
    return WARMUP_FILE in warmup_sizes(config)
