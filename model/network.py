"""The network of a spec: cast, normalise, backbone and head, and the task's last layer, as one torch module."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from model.checkpoint import read_spec, read_weights, write_checkpoint
from model.errors import CheckpointError, OutsideError, SpecError
from model.preprocess import Preprocess
from model.spec import Architecture, ModelSpec, Normalize
from model.tasks import task_of

_NOT_IN_A_SPEC = ("checkpoint_path", "num_classes", "pretrained")
"""Arguments of timm that would say again what a spec says, or open files that it does not carry."""

_LAST_LAYERS: dict[str, type[nn.Module]] = {"multiclass": nn.Softmax}

# timm's crop modes: `border` shows the whole picture with a margin, which is `pad` without the margin.
_FITS: dict[str, Literal["pad", "squash"]] = {"squash": "squash", "border": "pad"}


class Network(nn.Module):
    """uint8 images [N, H, W, 3] in, the task's outputs out; everything in between is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, pretrained: bool = False) -> None:
        """Build with random weights, or with the library's `pretrained` ones. Raises SpecError."""
        super().__init__()
        task_of(spec)
        self.spec = spec
        self.backbone = _backbone(spec.architecture, classes=len(spec.labels), pretrained=pretrained)
        # Channel-first statistics on pixels in 0..255. The spec is their home, so no checkpoint holds them.
        self.register_buffer("mean", _per_channel(spec.normalize.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.normalize.std), persistent=False)
        self.last = _LAST_LAYERS[spec.task](dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """What the loss wants: the head's raw values, float32 [N, C], from uint8 [N, H, W, 3]."""
        # Cast before the transpose: TensorRT for RTX resizes no uint8 tensor that was transposed.
        pixels = images.to(self.mean.dtype).permute(0, 3, 1, 2)
        raw: Tensor = self.backbone((pixels - self.mean) / self.std)
        return raw

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The answers, in the order of the spec's outputs: what is exported and served."""
        return self.answers(self.logits(image))

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        """The last layer alone: the answers that the head's raw values mean."""
        return (self.last(logits),)

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


def load_network(checkpoint: Path) -> Network:
    """The trained network of a checkpoint, ready to infer. Raises CheckpointError, SpecError."""
    network = Network(read_spec(checkpoint))
    weights = {key: torch.from_numpy(array) for key, array in read_weights(checkpoint).items()}
    load_weights(network, weights, origin=str(checkpoint))
    return network.eval()


def load_weights(network: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load a state dict that must fit exactly. Raises CheckpointError naming what does not."""
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{origin}: the weights do not fit the network: {error}") from error


def save_network(path: Path, network: Network, spec: ModelSpec | None = None) -> None:
    """Write a network as a checkpoint; `spec` replaces its own (a lineage is known only after training)."""
    weights = {key: tensor.detach().cpu().numpy() for key, tensor in network.state_dict().items()}
    write_checkpoint(path, spec or network.spec, weights)


def architecture_of(name: str, height: int, width: int) -> Architecture:
    """The timm architecture `name` for images of this size. Raises SpecError for an unknown name."""
    config = _timm_config(name)
    # Networks with position tables are built for one size; others take any and know no such argument.
    arguments: dict[str, Any] = {"img_size": [height, width]} if config.fixed_input_size else {}
    return Architecture(name=name, arguments=arguments)


def timm_normalize(name: str) -> Normalize:
    """The mean and std that timm's weights of this name were trained with."""
    config = _timm_config(name)
    return Normalize(mean=config.mean, std=config.std)


def timm_preprocess(name: str) -> Preprocess:
    """The evaluation size, crop ratio and interpolation that timm documents for this name."""
    config = _timm_config(name)
    _, height, width = config.input_size
    interpolation: Literal["bilinear", "bicubic"] = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    return Preprocess(
        height=height,
        width=width,
        fit=_FITS.get(config.crop_mode, "crop"),
        crop_ratio=config.crop_pct or 1.0,
        interpolation=interpolation,
    )


def _timm_config(name: str) -> Any:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise SpecError(f"timm {timm.__version__} has no model {name!r}{hint}. See timm.list_models().")
    try:
        return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:  # a tag after the dot that the model does not have
        raise SpecError(f"timm {timm.__version__} has no weights {name!r}. See timm.list_pretrained().") from error


def _backbone(architecture: Architecture, classes: int, pretrained: bool) -> nn.Module:
    _timm_config(architecture.name)
    refused = [argument for argument in _NOT_IN_A_SPEC if argument in architecture.arguments]
    if refused:
        raise SpecError(f"{architecture.name}: leave out of its arguments: {', '.join(refused)}")
    arguments: dict[str, Any] = {**architecture.arguments, "num_classes": classes, "pretrained": pretrained}
    try:
        network: nn.Module = timm.create_model(architecture.name, **arguments)
    except OSError as error:
        raise OutsideError(f"the pretrained weights of {architecture.name} could not be fetched: {error}") from error
    except Exception as error:  # a constructor fails in its own way on arguments it does not expect
        raise SpecError(f"timm cannot build {architecture.name} {architecture.arguments}: {error}") from error
    return network


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return (torch.tensor(values, dtype=torch.float64) * 255).float().view(1, 3, 1, 1)
