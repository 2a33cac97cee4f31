"""Removes channels with torch-pruning, so that the network is smaller and faster everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.compression.layers import last_layers, prunable_layers, select_layers
from train.config.pruning import PruningConfig
from train.config.pruning_functions import CHANNELS
from tritonkit.errors import ConfigError, first_line
from tritonkit.networks.network import Network, load_weights
from tritonkit.networks.resize import Shapes, resize_layers
from tritonkit.spec import Architecture
from tritonkit.system.console import warn


def check_torch_pruning() -> None:
    """Raise ConfigError if torch-pruning is not installed."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"pruning: {CHANNELS} needs torch-pruning; install it with: pip install 'tritonkit[compression]'",
            code="install.missing_module",
        ) from error


def remove_channels(network: Network, config: PruningConfig) -> None:
    """Remove a share of the output channels of each selected layer, those with the smallest weights, in place.

    Layers that are added or concatenated lose the same channels. The outputs of the last layers stay. Raises
    ConfigError if the network cannot be pruned, or cannot be built again from its shapes.
    """
    check_torch_pruning()
    import torch_pruning

    before = sum(parameter.numel() for parameter in network.parameters())
    layers = select_layers(network, config)
    selected, widths = list(layers.values()), _widths(layers)
    last = last_layers(network)
    kept = [*last, *(each for each in prunable_layers(network).values() if each not in selected)]
    image = torch.randint(0, 256, (2, *network.spec.input.shape), dtype=torch.uint8)
    training = network.training
    try:
        with warnings.catch_warnings(action="ignore"):  # about parameters outside of layers, which it prunes too
            torch_pruning.pruner.BasePruner(
                network.eval(),
                image[:1],
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=config.amount,
                ignored_layers=kept,
                forward_fn=_logits,
            ).step()
        _mark_pruned(network)
        _check_rebuilt(network, image)
    except Exception as error:  # each network fails in its own way
        raise ConfigError(
            f"pruning: torch-pruning cannot remove channels of {network.spec.architecture.name} "
            f"({type(error).__name__}: {first_line(error):.120}). Choose `layers` whose outputs are free, such as "
            "blocks.*.mlp.fc1 of a vision transformer, or set weights to zero with function: l1_unstructured",
            code="pruning.unsupported_network",
        ) from error
    network.train(training)
    if sum(parameter.numel() for parameter in network.parameters()) == before:
        raise ConfigError(
            f"pruning: the selected layers of {network.spec.architecture.name} lose no channel: a last layer keeps its "
            f"outputs, and a layer that would keep none at an amount of {config.amount} keeps all; select other "
            "`layers`, or a smaller amount",
            code="pruning.nothing_removed",
        )
    whole = [name for name, width in _widths(layers).items() if width == widths[name] and layers[name] not in last]
    if whole:
        warn(
            f"warning: pruning: {len(whole)} of {len(layers)} layers keep all channels: {', '.join(whole):.120}. One "
            f"that would keep none at an amount of {config.amount} keeps all, and so do those that are added to it"
        )


def _widths(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the number of output channels of each layer."""
    return {name: next(layer.parameters()).shape[0] for name, layer in layers.items()}


def _logits(network: Network, images: Tensor) -> Any:
    logits = network.logits(images)
    return list(logits.values()) if isinstance(logits, dict) else logits


def _check_rebuilt(network: Network, image: Tensor) -> None:
    """Check that a network built from the spec and the shapes alone returns the same values. Raises ValueError."""
    rebuilt = Network(network.spec)
    resize_layers(rebuilt, {key: tensor.shape for key, tensor in network.state_dict().items()})
    load_weights(rebuilt, network.state_dict(), origin="the pruned network")
    with torch.inference_mode():
        outputs = zip(network(image), rebuilt.eval()(image), strict=True)
        if not all(torch.equal(pruned, again) for pruned, again in outputs):
            raise ValueError("a network built from the remaining shapes returns other values")


def resize_network(network: Network, shapes: Shapes) -> None:
    """Give a network that was built from a configuration the shapes of one from which channels were removed."""
    resize_layers(network, shapes)
    _mark_pruned(network)


def match_channels(network: Network, source: Architecture, weights: Mapping[str, Tensor], path: str) -> None:
    """Give a network the shapes of a checkpoint from which channels were removed, but keep its number of outputs.

    source: the architecture of the checkpoint. Raises ConfigError if the network has another one.
    """
    own = network.spec.architecture
    if (own.library, own.name, own.arguments) != (source.library, source.name, source.arguments):
        raise ConfigError(
            f"model.weights: {path} is {source}, and its channels fit only that network with the arguments "
            f"{source.arguments}; the configuration has {own} {own.arguments}",
            code="pruning.other_network",
        )
    last = {tensor for head in last_layers(network) for tensor in head.parameters()}
    outputs = {key: parameter.shape[0] for key, parameter in network.named_parameters() if parameter in last}
    shapes = {
        key: (outputs[key], *tensor.shape[1:]) if key in outputs else tuple(tensor.shape)
        for key, tensor in weights.items()
    }
    resize_network(network, shapes)


def _mark_pruned(network: Network) -> None:
    architecture = network.spec.architecture.model_copy(update={"pruned": True})
    network.spec = network.spec.model_copy(update={"architecture": architecture})
