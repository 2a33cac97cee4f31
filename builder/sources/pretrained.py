"""Open `timm:NAME` and `torchvision:NAME`: a network with the library's pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from builder.sources.base import NetworkSource
from builder.sources.foreign_options import read_labels
from builder.sources.state_dict import network_source, network_spec
from tritonkit.errors import ExternalError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.networks.backbones import HUB_PREFIXES, recipe_of, timm_name, timm_weights
from tritonkit.networks.hub import cached_download, weights_file
from tritonkit.networks.network import Network
from tritonkit.networks.torchvision_networks import PREFIX as TORCHVISION
from tritonkit.networks.torchvision_networks import torchvision_weights
from tritonkit.spec import TaskSpec

PREFIX = "timm:"
TORCHVISION_PREFIX = "torchvision:"


def pretrained_source(source: str, foreign: ForeignModelOptions, rename: str | None) -> NetworkSource | None:
    """Open a name with a library's prefix, with the pretrained weights; None for a file.

    Raises SpecError for a name that the library does not know, InputError where its labels are unknown, ExternalError
    where the weights are not on this machine and cannot be downloaded.
    """
    if source.startswith(TORCHVISION_PREFIX):
        title, name = source, TORCHVISION + source.removeprefix(TORCHVISION_PREFIX).removeprefix(TORCHVISION)
    elif source.startswith((PREFIX, *HUB_PREFIXES)):
        name = timm_name(source.removeprefix(PREFIX))
        title = PREFIX + name
    else:
        return None
    foreign.refuse(("--model", "--layout", "--activation", "--graph-output"), f"{title} names the network")
    if source.startswith(TORCHVISION_PREFIX):
        weights = torchvision_weights(name)
        labels = weights.meta["categories"]
        network = _classifier(title, name, labels, len(labels), foreign)
        path, description = cached_download(weights.url), f"{name}, weights"
        hub_name = licence = ""
    else:
        config = timm_weights(name)
        if foreign.task == "embedding" or not config.num_classes:
            network = _embedding_network(title, name, int(config.num_classes), foreign)
        else:
            network = _classifier(title, name, _timm_labels(config), int(config.num_classes), foreign)
        path, description = weights_file(config), f"timm {config.architecture}, weights"
        hub_name = config.hf_hub_id or ""
        licence = f", {config.license}" if getattr(config, "license", None) else ""
    if path is None:
        raise ExternalError(
            f"{title}: its weights were loaded, but their file is not in the cache", code="source.weights_not_cached"
        )
    network.check_patch_multiple("--size")
    description = f"{description} {hub_name or path.name}{licence}"
    return network_source(network, path, description, recipe_of(name), foreign, rename)


def _timm_labels(config: Any) -> Sequence[str] | None:
    """The labels of timm's weights; None where they are not known."""
    if config.label_names:
        return [str(label) for label in config.label_names]
    if (subset := infer_imagenet_subset({"num_classes": config.num_classes})) is None:
        return None
    info: Any = ImageNetInfo(subset)
    return [info.index_to_description(number) for number in range(info.num_classes())]


def _classifier(
    title: str, name: str, labels: Sequence[str] | None, count: int, foreign: ForeignModelOptions
) -> Network:
    """Create a classifier of `count` classes. labels: those of its weights, if they are known."""
    if foreign.task not in (None, "multiclass", "multilabel"):
        raise InputError(
            f"--task {foreign.task}: {title} is a classifier, multiclass or multilabel",
            code="option.task_of_pretrained",
        )
    if foreign.labels is not None:
        labels = read_labels(foreign.labels)
    if labels is None:
        raise InputError(
            f"{title}: the names of its {count} outputs are unknown: they are no ImageNet classes. Set --labels FILE "
            f"with {count} lines, or --task embedding where the outputs are features, as in CLIP",
            code="source.labels_unknown",
        )
    if len(labels) != count:
        origin = foreign.labels or "the configuration of its weights"
        raise SpecError(
            f"{origin}: {len(labels)} labels, but {title} has {count} classes; set --labels FILE with {count} lines",
            code="source.label_count",
        )
    task_spec = TaskSpec(task=foreign.task or "multiclass", labels=tuple(labels))
    return Network(network_spec(name, task_spec, foreign), pretrained=True)


def _embedding_network(title: str, name: str, count: int, foreign: ForeignModelOptions) -> Network:
    """Create a network that outputs the features before its classifier, or the projection of an image-text model."""
    foreign.refuse(("--labels",), f"{title} gives an embedding, which has no labels")
    if foreign.task not in (None, "embedding"):
        raise InputError(
            f"--task {foreign.task}: {title} has no classifier; leave --task out for its embedding",
            code="option.task_of_pretrained",
        )
    # Created with the classes of the weights, so that timm loads all of them; then a head of classes is removed.
    task_spec = TaskSpec(task="embedding", embedding_size=count or 1)
    network = Network(network_spec(name, task_spec, foreign), pretrained=True)
    if count and infer_imagenet_subset({"num_classes": count}) is None:
        return network
    headless: Any = network.backbone.eval()
    headless.reset_classifier(0)
    with torch.inference_mode():
        size = headless(torch.zeros(1, 3, *network.spec.input.shape[:2])).shape[1]
    return network.with_spec(network_spec(name, TaskSpec(task="embedding", embedding_size=size), foreign))
