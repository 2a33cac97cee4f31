"""The layers of a network that a pruning selects."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from train.config.pruning import PruningConfig
from tritonkit.errors import ConfigError, SpecError
from tritonkit.networks.backbones import head_of
from tritonkit.networks.network import Network

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def prunable_layers(network: Network) -> dict[str, nn.Module]:
    """Return all convolutions and linear layers by name; names in the backbone have no prefix."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, PRUNABLE)}
    return {name.removeprefix("backbone."): layer for name, layer in layers.items()}


def last_layers(network: Network) -> list[nn.Module]:
    """Return the modules that compute the outputs; an empty list for a plugin's network whose head is not known."""
    if network.heads is not None:
        return list(network.heads.values())
    if isinstance(segmentation_head := getattr(network.backbone, "segmentation_head", None), nn.Module):
        return [segmentation_head]
    try:
        return [head_of(network.backbone)]
    except SpecError:
        return []


def select_layers(network: Network, config: PruningConfig) -> dict[str, nn.Module]:
    """Return the layers that a pruning selects, by name. Raises ConfigError for a pattern that matches none."""
    layers = prunable_layers(network)
    if not config.layers:
        last = {layer for head in last_layers(network) for layer in head.modules()}
        return {name: layer for name, layer in layers.items() if layer not in last}
    unmatched = [pattern for pattern in config.layers if not any(_matches(name, pattern) for name in layers)]
    if unmatched:
        names = list(layers)
        listing = f"{', '.join([*names[:3], *(['…'] if len(names) > 6 else []), *names[3:][-3:]])}"
        raise ConfigError(
            f"pruning.layers: {', '.join(map(repr, unmatched))}: no convolution or linear layer of "
            f"{network.spec.architecture.name} has such a name; it has {listing}",
            code="pruning.no_layers",
        )
    return {name: layer for name, layer in layers.items() if any(_matches(name, each) for each in config.layers)}


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a layer's name, or the name of a block around it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
