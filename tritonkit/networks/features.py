"""The features of a network: what its last layer takes, or of a segmentation network the pooled end of its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tritonkit.errors import SpecError
from tritonkit.networks.backbones import head_of
from tritonkit.networks.network import Network
from tritonkit.tasks import task_of


class FeatureExtractor:
    """Computes the features and the outputs of images in one run of the network.

    Maps of features are averaged over their positions. Where a network has two heads, as a distilled one, the features
    are the mean of what they take.
    """

    def __init__(self, network: Network, layers: Sequence[nn.Module] | None = None) -> None:
        """layers: those whose input the features are; default: the network's head. Raises SpecError without a head."""
        self._network = network.eval()
        self._encoder = getattr(network.backbone, "encoder", None) if task_of(network.spec).dense else None
        if self._encoder is None:
            self._layers = tuple(_head_layers(network) if layers is None else layers)

    def __call__(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features float32 [N, F] and the outputs in the order of the spec. images: uint8 [N, H, W, 3].

        Raises SpecError if the network does not have such features.
        """
        seen: list[Any] = []
        with ExitStack() as hooks, torch.inference_mode():
            if self._encoder is not None:
                hooks.enter_context(self._encoder.register_forward_hook(lambda layer, _, maps: seen.append(maps[-1])))
            else:
                for layer in self._layers:
                    hooks.enter_context(layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])))
            outputs = self._network(images)
        pooled = [values.flatten(2).mean(2) if values.ndim == 4 else values for values in seen if _fits(values, images)]
        if not pooled or len(pooled) < len(seen) or len({values.shape for values in pooled}) > 1:
            raise _no_features(self._network, "its last layer does not take one vector or map for each image")
        return torch.stack(pooled).mean(0).float(), outputs


def _fits(values: Any, images: Tensor) -> bool:
    return isinstance(values, Tensor) and values.ndim in (2, 4) and len(values) == len(images)


def _head_layers(network: Network) -> Sequence[nn.Module]:
    """Return the layers that take the features."""
    if network.heads is not None:
        return list(network.heads.values())[:1]  # all take the same
    if task_of(network.spec).dense:
        raise _no_features(network, "it has no encoder")
    head = head_of(network.backbone)
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _no_features(network: Network, reason: str) -> SpecError:
    return SpecError(
        f"{network.spec.architecture.name}: the features of this network are not known: {reason}",
        code="architecture.no_features",
    )
