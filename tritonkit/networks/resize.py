"""Gives the layers of a network other shapes: those of a checkpoint whose channels were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

Shapes = Mapping[str, Sequence[int]]
"""Shapes of tensors by their key in the state dict."""


def resize_layers(network: nn.Module, shapes: Shapes) -> None:
    """Replace each tensor whose shape differs from that in `shapes` by zeros, and set the sizes of its layer.

    A depthwise convolution keeps one group a channel; other grouped convolutions keep their number of groups. Shapes
    with another number of axes are ignored: loading the weights reports them.
    """
    for name, layer in network.named_modules():
        tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        is_depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels
        for key, tensor in tensors:
            shape = tuple(shapes.get(f"{name}.{key}" if name else key, tensor.shape))
            if shape == tuple(tensor.shape) or len(shape) != tensor.ndim:
                continue
            zeros = tensor.detach().new_zeros(shape)
            setattr(layer, key, nn.Parameter(zeros, tensor.requires_grad) if key in layer._parameters else zeros)
            if key == "weight":
                _set_sizes(layer, shape, is_depthwise)


def _set_sizes(layer: nn.Module, shape: tuple[int, ...], is_depthwise: bool) -> None:
    """Set the sizes that a layer keeps in addition to its tensors; `shape` is that of its weight."""
    if isinstance(layer, nn.Conv2d):
        layer.groups = shape[0] if is_depthwise else layer.groups
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels, layer.out_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        layer.num_features = shape[0]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = shape
