"""The settings of a model's configuration that change its speed and not its outputs.

Schema: triton-inference-server/common, protobuf/model_config.proto. Thread parameters: README.md of
triton-inference-server/onnxruntime_backend, openvino_backend and pytorch_backend.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Self

from pydantic import PositiveInt

from tritonkit.errors import InputError
from tritonkit.runtimes.formats import FAISS, ONNX, OPENVINO, TORCHSCRIPT
from tritonkit.spec import Frozen
from tritonkit.triton.backends import ModelConfig, backend_of
from tritonkit.triton.model_config import fit_sizes


class _ThreadParameter(NamedTuple):
    """The parameter of a backend for the threads inside an operator."""

    name: str
    counts_all_instances: bool = False
    """Whether its number is shared by all instances."""


_THREADS = {
    ONNX.backend: _ThreadParameter("intra_op_thread_count"),
    FAISS.backend: _ThreadParameter("intra_op_thread_count"),
    OPENVINO.backend: _ThreadParameter("INFERENCE_NUM_THREADS", counts_all_instances=True),
    TORCHSCRIPT.backend: _ThreadParameter("INTRA_OP_THREAD_COUNT"),
}


class ServingSettings(Frozen):
    """The settings of one model."""

    max_batch: int
    """`max_batch_size`; 0 for a model without a batch axis."""
    instances: PositiveInt
    """Instances on the CPU, or on each GPU."""
    threads: PositiveInt | None = None
    """Threads inside an operator, of one instance; None: the default of the backend."""
    delay_us: int | None = 0
    """`max_queue_delay_microseconds`; None: no dynamic batching."""
    preferred: tuple[PositiveInt, ...] = ()
    """`preferred_batch_size`; empty: the largest batch."""
    cuda_graphs: bool = False
    profile: str | None = None
    """Optimization profile of a TensorRT plan; None: its first."""

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """Read the settings of a configuration. Raises InputError for several instance groups."""
        groups = config.instance_group
        if len(groups) > 1:
            raise InputError(
                f"{config.name}: its config.pbtxt has {len(groups)} entries in instance_group; expected one, whose "
                "count can be changed",
                code="config.several_instance_groups",
            )
        instances = max(1, groups[0].count) if groups else 1
        threads, parameter = None, _THREADS.get(backend_of(config))
        if parameter is not None and parameter.name in config.parameters:
            text = config.parameters[parameter.name].string_value
            number = int(text) if text.isdecimal() else 0
            threads = (max(1, number // instances) if parameter.counts_all_instances else number) if number else None
        batching = config.dynamic_batching
        has_batching = config.HasField("dynamic_batching")
        preferred = tuple(batching.preferred_batch_size)  # Triton completes an empty list with the largest batch
        return cls(
            max_batch=config.max_batch_size,
            instances=instances,
            threads=threads,
            delay_us=batching.max_queue_delay_microseconds if has_batching else None,
            preferred=() if preferred == (config.max_batch_size,) else preferred,
            cuda_graphs=config.optimization.cuda.graphs,
            profile=groups[0].profile[0] if groups and groups[0].profile else None,
        )

    def applied_to(self, config: ModelConfig) -> ModelConfig:
        """Return a copy of a configuration with these settings; its other settings are kept."""
        result = copy.deepcopy(config)
        result.max_batch_size = self.max_batch
        fit_sizes(result, self.max_batch)
        _fit_warmup(result)
        group = result.instance_group[0] if result.instance_group else result.instance_group.add()
        group.count = self.instances
        if self.profile is not None:
            group.profile[:] = [self.profile]
        if (parameter := _THREADS.get(backend_of(result))) is not None:
            if self.threads is None:
                result.parameters.pop(parameter.name, None)
            else:
                number = self.threads * (self.instances if parameter.counts_all_instances else 1)
                result.parameters[parameter.name].string_value = str(number)
        if self.delay_us is None:
            result.ClearField("dynamic_batching")
        else:
            result.dynamic_batching.SetInParent()
            result.dynamic_batching.max_queue_delay_microseconds = self.delay_us
            result.dynamic_batching.preferred_batch_size[:] = self.preferred
        if self.cuda_graphs != result.optimization.cuda.graphs:
            _set_cuda_graphs(result, self.cuda_graphs)
        return result

    def words(self) -> str:
        """The settings as a short text, such as `1 instance x 2 threads, batch 8, delay 1000 us`."""
        parts = [f"{self.instances} instance{'s' if self.instances > 1 else ''}"]
        if self.threads is not None:
            parts[0] += f" x {self.threads} thread{'s' if self.threads > 1 else ''}"
        parts += [f"batch {self.max_batch}", "no batching" if self.delay_us is None else f"delay {self.delay_us} us"]
        parts += [f"preferred {', '.join(map(str, self.preferred))}"] if self.preferred else []
        parts += ["CUDA graphs"] if self.cuda_graphs else []
        parts += [f"profile {self.profile}"] if self.profile is not None else []
        return ", ".join(parts)


def takes_threads(config: ModelConfig) -> bool:
    """Whether the backend of a configuration has a parameter for the threads inside an operator."""
    return backend_of(config) in _THREADS


def _set_cuda_graphs(config: ModelConfig, on: bool) -> None:
    """Capture a graph for each power of two and the largest batch; Triton alone captures only preferred sizes."""
    cuda, largest = config.optimization.cuda, config.max_batch_size
    cuda.graphs = on
    del cuda.graph_spec[:]
    for size in sorted({*(1 << power for power in range(largest.bit_length())), largest}) if on else ():
        graph = cuda.graph_spec.add(batch_size=size)
        for tensor in config.input:
            graph.input[tensor.name].dim.extend(tensor.dims)


def _fit_warmup(config: ModelConfig) -> None:
    """Reduce warm-up batches to the largest batch, without a second one of that size."""
    largest, seen = max(1, config.max_batch_size), set()
    for index in reversed(range(len(config.model_warmup))):
        sample = config.model_warmup[index]
        if sample.batch_size > largest:
            sample.name = sample.name.replace(str(sample.batch_size), str(largest))
            sample.batch_size = largest
        key = (sample.name, sample.batch_size)
        if key in seen:
            del config.model_warmup[index]
        seen.add(key)
