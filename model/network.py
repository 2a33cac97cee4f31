"""The network of a spec: cast, normalise, backbone and head, and the task's last layer, as one torch module."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.backbones import build_backbone, head_of
from model.checkpoint import read_spec, read_weights, write_checkpoint
from model.errors import CheckpointError, SpecError
from model.spec import ModelSpec, Normalize
from model.tasks import task_of
from model.tasks.heads import Heads

_COLOURS = 3
Logits = Tensor | dict[str, Tensor]
"""What heads give before the last layer, [N, channels, ...]; by name where there are several."""


class Network(nn.Module):
    """uint8 images [N, H, W, 3] in, the task's outputs out; everything in between is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, pretrained: bool = False) -> None:
        """Build with random weights, or with the library's `pretrained` ones. Raises SpecError."""
        super().__init__()
        task = task_of(spec)
        self.spec = spec
        self.backbone = build_backbone(spec.architecture, task.channels, pretrained)
        # Channel-first statistics on pixels in 0..255. The spec is their home, so no checkpoint holds them.
        self.register_buffer("mean", _per_channel(spec.normalize.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.normalize.std), persistent=False)
        self.heads: nn.ModuleDict | None = None
        if isinstance(task, Heads):
            features = self._count_features()
            linear = {f"{name}_head": nn.Linear(features, head.channels) for name, head in task.heads.items()}
            self.heads = nn.ModuleDict(linear)  # a bare name might be one that modules have, such as `type`
        self.last = task.last_layer()

    def logits(self, images: Tensor) -> Logits:
        """What the loss wants: the heads' values before the last layer, from uint8 [N, H, W, 3]."""
        # Cast before the transpose: TensorRT for RTX resizes no uint8 tensor that was transposed.
        pixels = images.to(self.mean.dtype).permute(0, 3, 1, 2)
        values: Tensor = self.backbone((pixels - self.mean) / self.std)
        return values if self.heads is None else {n: self.heads[f"{n}_head"](values) for n in self.spec.heads}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The answers, in the order of the spec's outputs: what is exported and served."""
        return self.answers(self.logits(image))

    def answers(self, logits: Logits) -> tuple[Tensor, ...]:
        """The last layer alone: the answers that the heads' values mean."""
        outputs: tuple[Tensor, ...] = self.last(logits)
        return outputs

    def with_normalize(self, normalize: Normalize) -> Network:
        """The same weights behind another normalisation; the backbone is shared, not copied."""
        other = copy.copy(self)
        other._buffers = {
            **self._buffers,
            "mean": _per_channel(normalize.mean),
            "std": _per_channel(normalize.std),
        }
        other.spec = self.spec.model_copy(update={"normalize": normalize})
        return other

    def with_spec(self, spec: ModelSpec) -> Network:
        """The same weights asked in other terms, which only the last layer knows; the rest is shared, not copied."""
        other = copy.copy(self)
        other._modules = {**self._modules, "last": task_of(spec).last_layer()}
        other.spec = spec
        return other

    def frozen_while_heads_learn(self) -> Iterator[nn.Module]:
        """The modules besides the heads: what a first stage of fine-tuning keeps as it is. Raises SpecError."""
        head_modules = set(self.heads.modules() if self.heads is not None else head_of(self.backbone).modules())
        return (module for module in self.backbone.modules() if module not in head_modules)

    def check_size(self, option: str = "size") -> None:
        """Raise SpecError where the first layer cuts the picture into patches that its sides do not divide into.

        The rest of the picture would not be seen. option: what the size is called in the error.
        """
        convolutions = (module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        patches = [layer for layer in convolutions if _cuts_patches(layer)]
        layer_inputs: list[tuple[Sequence[int], Sequence[int]]] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda found, given: layer_inputs.append((given[0].shape[-2:], found.stride))
            )
            for layer in patches
        ]
        training, sides = self.training, self.spec.input.shape
        try:
            with torch.inference_mode():
                self.eval().logits(torch.zeros((1, *sides), dtype=torch.uint8, device=self.mean.device))
        except Exception as error:  # networks fail in their own ways on a size they do not take
            layer_inputs[:] = [(sides[:2], layer.stride) for layer in patches]  # some of them for this very reason
            if not any(_leaves_remainder(*one) for one in layer_inputs):
                name = self.spec.architecture.name
                raise SpecError(f"{name} takes no images [{', '.join(map(str, sides))}]: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
            self.train(training)
        for found, patch in layer_inputs:
            if _leaves_remainder(found, patch):
                raise SpecError(_size_message(self.spec, patch, option))

    def _count_features(self) -> int:
        """Of the backbone without its classifier; libraries tell it in too many ways."""
        image = torch.zeros(1, 3, *self.spec.input.shape[:2])
        name = self.spec.architecture.name
        try:
            with torch.inference_mode():
                features = self.backbone.eval()(image)
        except Exception as error:  # networks fail in their own ways on a size they do not take
            raise SpecError(f"{name} takes no images {list(self.spec.input.shape)}: {error}") from error
        self.backbone.train()
        if getattr(features, "ndim", 0) != 2:
            came = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise SpecError(f"{name} gives {came}, but several heads need features [N, F]")
        return int(features.shape[1])


@contextmanager
def on_cpu(network: Network) -> Iterator[Network]:
    """The network on the CPU, ready to infer, while the block runs; then back on the device that it was on.

    A move is in place, and whoever runs the same network has put it where it asks it.
    """
    device = network.mean.device
    try:
        yield network.cpu().eval()
    finally:
        network.to(device)


def load_network(checkpoint: Path) -> Network:
    """The trained network of a checkpoint, ready to infer. Raises CheckpointError, SpecError."""
    network = Network(read_spec(checkpoint))
    weights = {key: torch.from_numpy(array) for key, array in read_weights(checkpoint).items()}
    load_weights(network, weights, origin=str(checkpoint))
    return network.eval()


def load_weights(network: nn.Module, weights: dict[str, Tensor], origin: str, strict: bool = True) -> None:
    """Load a state dict that must fit exactly, or in part where it is not `strict`.

    Raises CheckpointError naming what does not fit.
    """
    state: Any = OrderedDict(weights)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined] # MNASNet refuses one without
    try:
        network.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        raise CheckpointError(f"{origin}: the weights do not fit the network: {error}") from error


def save_network(path: Path, network: Network, spec: ModelSpec | None = None) -> None:
    """Write a network as a checkpoint; `spec` replaces its own (a lineage is known only after training)."""
    weights = {key: tensor.detach().cpu().numpy() for key, tensor in network.state_dict().items()}
    write_checkpoint(path, spec or network.spec, weights)


def _cuts_patches(layer: nn.Conv2d) -> bool:
    """Whether it takes pixels in patches, without a border: the rest at the right and below is dropped."""
    return (
        layer.in_channels == _COLOURS
        and layer.stride != (1, 1)
        and not any(side % step for side, step in zip(layer.kernel_size, layer.stride, strict=True))
        and layer.padding in (0, (0, 0), "valid")
    )


def _leaves_remainder(sides: Sequence[int], patch: Sequence[int]) -> bool:
    return any(side % step for side, step in zip(sides, patch, strict=True))


def _size_message(spec: ModelSpec, patch: Sequence[int], option: str) -> str:
    sides = spec.input.shape[:2]
    fitting = [-(-side // step) * step for side, step in zip(sides, patch, strict=True)]
    size, step, fit = ("x".join(map(str, dict.fromkeys(pair))) for pair in (sides, patch, fitting))
    prefix = "torchvision/" if spec.architecture.library == "torchvision" else ""
    return f"{option} {size} is no multiple of the patch size {step} of {prefix}{spec.architecture.name}; take {fit}"


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return (torch.tensor(values, dtype=torch.float64) * 255).float().view(1, 3, 1, 1)
