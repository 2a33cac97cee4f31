"""The features of a frozen backbone: what its last linear layer takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from train.config.loading import Precision
from train.engine.plan import AUTOCAST
from tritonkit.errors import ConfigError, SpecError
from tritonkit.networks.features import FeatureExtractor
from tritonkit.networks.network import Network
from tritonkit.system.console import track_progress


def linear_heads(network: Network) -> dict[str, nn.Linear]:
    """Return the last layer of each head by the head's name, which is empty for a model with one head.

    Raises SpecError if the network's logits are not the output of one linear layer with a bias.
    """
    if network.heads is not None:
        return {name: cast("nn.Linear", network.heads[f"{name}_head"]) for name in network.spec.heads}
    layers = [module for module in network.backbone.modules() if isinstance(module, nn.Linear)]
    if layers and layers[-1].bias is not None:
        outputs: list[Tensor] = []
        hook = layers[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        with hook, torch.inference_mode():
            logits = network.eval().logits(torch.zeros((2, *network.spec.input.shape), dtype=torch.uint8))
        if len(outputs) == 1 and outputs[0].data_ptr() == cast("Tensor", logits).data_ptr():
            return {"": layers[-1]}
    raise SpecError(
        f"{network.spec.architecture.name}: the logits of this network are not the output of one linear layer with a "
        "bias, which a baseline replaces; choose another model.name, or use train fit",
        code="baseline.no_linear_head",
    )


def frozen_features(
    network: Network, heads: Mapping[str, nn.Linear], loader: DataLoader[Any], precision: Precision, doing: str
) -> NDArray[np.float32]:
    """Compute the features [N, F] of all images of a loader. doing: the title of the progress bar.

    Raises ConfigError if a feature is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stub
    dtype = AUTOCAST.get(precision)
    features: list[Tensor] = []
    extract = FeatureExtractor(network, list(heads.values())[:1])  # all heads take the same features
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        for images, _ in track_progress(loader, doing, len(loader)):
            features.append(extract(images.to(device, non_blocking=True))[0].cpu())
    collected = torch.cat(features)
    if not collected.isfinite().all():
        raise ConfigError(
            f"{network.spec.architecture.name}: its features are not finite; check model.weights, or use "
            "precision=32-true",
            code="baseline.features_not_finite",
        )
    return collected.numpy()
