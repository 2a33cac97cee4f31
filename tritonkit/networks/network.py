"""The network of a spec as one torch module: cast, normalisation, backbone, heads, and the task's last layer."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tritonkit.checkpoint import read_spec, read_weights, write_checkpoint
from tritonkit.errors import CheckpointError, SpecError
from tritonkit.networks.backbones import build_backbone, head_of
from tritonkit.networks.resize import resize_layers
from tritonkit.spec import ModelSpec, Normalize
from tritonkit.tasks import task_of
from tritonkit.tasks.heads import Heads

_COLOURS = 3
Logits = Tensor | dict[str, Tensor]
"""Output of the head before the last layer, [N, channels, ...]; a dict by name for several heads."""


class Network(nn.Module):
    """The whole model: takes uint8 images [N, H, W, 3] and returns the task's outputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, pretrained: bool = False) -> None:
        """Build the network with random weights, or with the library's `pretrained` weights. Raises SpecError."""
        super().__init__()
        task = task_of(spec)
        self.spec = spec
        self.backbone = build_backbone(spec.architecture, task.channels, pretrained)
        # Per-channel statistics of pixels in 0..255. They are stored in the spec, not in the checkpoint's weights.
        self.register_buffer("mean", _per_channel(spec.normalize.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.normalize.std), persistent=False)
        self.heads: nn.ModuleDict | None = None
        if isinstance(task, Heads):
            features = self._count_features()
            linear = {f"{name}_head": nn.Linear(features, head.channels) for name, head in task.heads.items()}
            self.heads = nn.ModuleDict(linear)  # the suffix avoids attributes of modules, such as `type`
        self.last = task.last_layer()

    def logits(self, images: Tensor) -> Logits:
        """Return the values before the last layer, which the loss takes. images: uint8 [N, H, W, 3]."""
        # Cast before the transpose: TensorRT for RTX cannot resize a transposed uint8 tensor.
        pixels = images.to(self.mean.dtype).permute(0, 3, 1, 2)
        values: Tensor = self.backbone((pixels - self.mean) / self.std)
        return values if self.heads is None else {n: self.heads[f"{n}_head"](values) for n in self.spec.heads}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of the spec. This is the exported and served graph."""
        return self.answers(self.logits(image))

    def answers(self, logits: Logits) -> tuple[Tensor, ...]:
        """Apply only the last layer to the logits."""
        outputs: tuple[Tensor, ...] = self.last(logits)
        return outputs

    def with_normalize(self, normalize: Normalize) -> Network:
        """Return a network with another normalisation; the weights are shared, not copied."""
        other = copy.copy(self)
        other._buffers = {
            **self._buffers,
            "mean": _per_channel(normalize.mean),
            "std": _per_channel(normalize.std),
        }
        other.spec = self.spec.model_copy(update={"normalize": normalize})
        return other

    def with_spec(self, spec: ModelSpec) -> Network:
        """Return a network with another spec, which changes only the last layer; the weights are shared, not copied.

        Heads that the spec does not have are left out.
        """
        other = copy.copy(self)
        other._modules = {**self._modules, "last": task_of(spec).last_layer()}
        if self.heads is not None:
            other.heads = nn.ModuleDict({f"{name}_head": self.heads[f"{name}_head"] for name in spec.heads})
        other.spec = spec
        return other

    def modules_without_heads(self) -> Iterator[nn.Module]:
        """Return all modules except the heads: those that the first stage of fine-tuning freezes. Raises SpecError."""
        head_modules = set(self.heads.modules() if self.heads is not None else head_of(self.backbone).modules())
        return (module for module in self.backbone.modules() if module not in head_modules)

    def check_patch_multiple(self, option: str = "size") -> None:
        """Check that the image size is a multiple of the patch size of the first layer. Raises SpecError.

        Otherwise the network would ignore the remaining pixels. option: name of the size in the error.
        """
        convolutions = (module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        patches = [layer for layer in convolutions if _cuts_patches(layer)]
        layer_inputs: list[tuple[Sequence[int], Sequence[int]]] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda module, inputs: layer_inputs.append((inputs[0].shape[-2:], module.stride))
            )
            for layer in patches
        ]
        training, sides = self.training, self.spec.input.shape
        try:
            with torch.inference_mode():
                self.eval().logits(torch.zeros((1, *sides), dtype=torch.uint8, device=self.mean.device))
        except Exception as error:  # each network raises its own error for a size that it does not support
            layer_inputs[:] = [(sides[:2], layer.stride) for layer in patches]  # the remainder may be the reason
            if not any(_leaves_remainder(*pair) for pair in layer_inputs):
                name = self.spec.architecture.name
                raise SpecError(
                    f"{name} does not support images [{', '.join(map(str, sides))}]: {error}",
                    code="architecture.image_size",
                ) from error
        finally:
            for hook in hooks:
                hook.remove()
            self.train(training)
        for input_sides, patch in layer_inputs:
            if _leaves_remainder(input_sides, patch):
                fitting = [-(-side // step) * step for side, step in zip(sides[:2], patch, strict=True)]
                size, step, fit = ("x".join(map(str, dict.fromkeys(pair))) for pair in (sides[:2], patch, fitting))
                prefix = "torchvision/" if self.spec.architecture.library == "torchvision" else ""
                raise SpecError(
                    f"{option} {size} is not a multiple of the patch size {step} of {prefix}"
                    f"{self.spec.architecture.name}; use {fit}",
                    code="architecture.patch_size",
                )

    def _count_features(self) -> int:
        """Count the features of the backbone without its classifier, by a run: libraries store it in many ways."""
        image = torch.zeros(1, 3, *self.spec.input.shape[:2])
        name = self.spec.architecture.name
        try:
            with torch.inference_mode():
                features = self.backbone.eval()(image)
        except Exception as error:  # each network raises its own error for a size that it does not support
            raise SpecError(
                f"{name} does not support images {list(self.spec.input.shape)}: {error}", code="architecture.image_size"
            ) from error
        self.backbone.train()
        if getattr(features, "ndim", 0) != 2:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise SpecError(
                f"{name} returns {got}, but several heads need features [N, F]", code="architecture.features"
            )
        return int(features.shape[1])


@contextmanager
def on_cpu(network: Network) -> Iterator[Network]:
    """Move the network to the CPU, in eval mode, while the block runs; then back to its device.

    The move is in place, and other users of the same network expect it on its device.
    """
    device = network.mean.device
    try:
        yield network.cpu().eval()
    finally:
        network.to(device)


def load_network(checkpoint: Path) -> Network:
    """Load the trained network of a checkpoint, in eval mode. Raises CheckpointError, SpecError."""
    network = Network(read_spec(checkpoint))
    weights = {key: torch.from_numpy(array) for key, array in read_weights(checkpoint).items()}
    if network.spec.architecture.pruned:
        resize_layers(network, {key: tensor.shape for key, tensor in weights.items()})
    load_weights(network, weights, origin=str(checkpoint))
    return network.eval()


def load_weights(network: nn.Module, weights: dict[str, Tensor], origin: str, strict: bool = True) -> None:
    """Load a state dict into a network; with `strict=False`, missing and extra keys are allowed.

    Raises CheckpointError that names the tensors that do not fit.
    """
    state: Any = OrderedDict(weights)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined] # MNASNet requires it
    try:
        network.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        raise CheckpointError(
            f"{origin}: the weights do not fit the network: {error}", code="checkpoint.weights"
        ) from error


def save_network(path: Path, network: Network, spec: ModelSpec | None = None) -> None:
    """Write a network to a checkpoint; `spec` replaces the network's own, as the lineage is known after training."""
    weights = {key: tensor.detach().cpu().numpy() for key, tensor in network.state_dict().items()}
    write_checkpoint(path, spec or network.spec, weights)


def _cuts_patches(layer: nn.Conv2d) -> bool:
    """Whether a layer splits the image into patches without padding: it ignores the rest at the right and bottom."""
    return (
        layer.in_channels == _COLOURS
        and layer.stride != (1, 1)
        and not any(side % step for side, step in zip(layer.kernel_size, layer.stride, strict=True))
        and layer.padding in (0, (0, 0), "valid")
    )


def _leaves_remainder(sides: Sequence[int], patch: Sequence[int]) -> bool:
    return any(side % step for side, step in zip(sides, patch, strict=True))


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return (torch.tensor(values, dtype=torch.float64) * 255).float().view(1, 3, 1, 1)
