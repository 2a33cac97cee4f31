"""Open `timm:NAME` and `torchvision:NAME`: a network with the library's pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from builder.sources.base import NetworkSource
from builder.sources.labels import read_labels
from builder.sources.preprocess_options import describe_preprocessing
from builder.sources.state_dict import network_spec
from tritonkit.errors import ExternalError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.networks.backbones import HUB_PREFIXES, recipe_of, timm_name, timm_weights
from tritonkit.networks.hub import cached_download, weights_file
from tritonkit.networks.network import Network
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.networks.torchvision_networks import PREFIX as TORCHVISION
from tritonkit.networks.torchvision_networks import torchvision_weights
from tritonkit.spec import Lineage, TaskSpec
from tritonkit.system.files import file_sha256

PREFIX = "timm:"
TORCHVISION_PREFIX = "torchvision:"


def pretrained_source(source: str, foreign: ForeignModelOptions, rename: str | None) -> NetworkSource | None:
    """Open the source of a name with a library's prefix; None for a file."""
    if source.startswith(TORCHVISION_PREFIX):
        return source_from_torchvision(source.removeprefix(TORCHVISION_PREFIX), foreign, rename)
    if source.startswith((PREFIX, *HUB_PREFIXES)):
        return source_from_timm(source.removeprefix(PREFIX), foreign, rename)
    return None


def source_from_torchvision(name: str, foreign: ForeignModelOptions, rename: str | None = None) -> NetworkSource:
    """Open the torchvision classifier `name` with its pretrained weights. Raises what `source_from_timm` raises."""
    foreign.refuse(("--model", "--layout", "--activation"), f"{TORCHVISION_PREFIX}{name} names the network")
    if foreign.task not in (None, "multiclass", "multilabel"):
        raise InputError(
            f"--task {foreign.task}: {TORCHVISION_PREFIX}{name} is a classifier, multiclass or multilabel",
            code="option.task_of_pretrained",
        )
    weights, model = torchvision_weights(name), TORCHVISION + name.removeprefix(TORCHVISION)
    categories = weights.meta["categories"]
    labels = tuple(categories) if foreign.labels is None else read_labels(foreign.labels)
    if len(labels) != len(categories):
        raise SpecError(
            f"{foreign.labels}: {len(labels)} labels, but {TORCHVISION_PREFIX}{name} has {len(categories)} classes",
            code="source.label_count",
        )
    spec = network_spec(model, TaskSpec(task=foreign.task or "multiclass", labels=labels), foreign)
    network = Network(spec, pretrained=True)
    path = cached_download(weights.url)
    if path is None:
        raise ExternalError(
            f"{TORCHVISION_PREFIX}{name}: its weights were loaded, but their file is not in the cache",
            code="source.weights_not_cached",
        )
    return _source_of(network, path, f"{model}, weights {path.name}", recipe_of(model), foreign, rename)


def source_from_timm(name: str, foreign: ForeignModelOptions, rename: str | None = None) -> NetworkSource:
    """Open the timm network `name` with its pretrained weights.

    Raises SpecError for a name that timm does not know, InputError where its labels are unknown, ExternalError where
    the weights are not on this machine and cannot be downloaded.
    """
    name = timm_name(name)
    foreign.refuse(("--model", "--layout", "--activation"), f"{PREFIX}{name} names the network")
    config = timm_weights(name)
    network = (
        _embedding_network(name, config, foreign) if foreign.task == "embedding" or not config.num_classes else None
    )
    if network is None:
        network = Network(network_spec(name, _classifier_task(name, config, foreign), foreign), pretrained=True)
    path = weights_file(config)
    if path is None:
        raise ExternalError(
            f"{PREFIX}{name}: its weights were loaded, but their file is not in the cache",
            code="source.weights_not_cached",
        )
    licence = f", {config.license}" if getattr(config, "license", None) else ""
    note = f"timm {config.architecture}, weights {config.hf_hub_id or path.name}{licence}"
    return _source_of(network, path, note, recipe_of(name), foreign, rename)


def _source_of(
    network: Network,
    path: Path,
    origin: str,
    recipe: PretrainedRecipe,
    foreign: ForeignModelOptions,
    rename: str | None,
) -> NetworkSource:
    network.check_patch_multiple("--size")
    note = f"{origin}; {describe_preprocessing(network.spec, foreign, recipe)}"
    lineage = Lineage(parent=f"sha256:{file_sha256(path)}", note=note)
    network.spec = network.spec.model_copy(update={"lineage": lineage})
    if rename:
        network.spec = network.spec.renamed(rename)
    return NetworkSource(path, None, note, network.eval())


def _classifier_task(name: str, config: Any, foreign: ForeignModelOptions) -> TaskSpec:
    if foreign.task == "segmentation":
        raise InputError(
            f"--task segmentation: {PREFIX}{name} gives one output per image, not one per pixel",
            code="option.task_of_pretrained",
        )
    task, count = foreign.task or "multiclass", int(config.num_classes)
    labels = _imagenet_labels(config) if foreign.labels is None else read_labels(foreign.labels)
    if labels is None:
        raise InputError(
            f"{PREFIX}{name}: the names of its {count} outputs are unknown: they are no ImageNet classes. Set --labels "
            f"FILE with {count} lines, or --task embedding where the outputs are features, as in CLIP",
            code="source.labels_unknown",
        )
    if len(labels) != count:
        origin = foreign.labels or "the configuration of its weights"
        raise SpecError(
            f"{origin}: {len(labels)} labels, but {PREFIX}{name} has {count} classes; set --labels FILE with {count} "
            "lines",
            code="source.label_count",
        )
    return TaskSpec(task=task, labels=labels)


def _imagenet_labels(config: Any) -> tuple[str, ...] | None:
    """The label texts of the ImageNet variant with this number of classes; None where there is none."""
    if config.label_names:
        return tuple(map(str, config.label_names))
    subset = infer_imagenet_subset({"num_classes": config.num_classes})
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)
    return tuple(info.index_to_description(number) for number in range(info.num_classes()))


def _embedding_network(name: str, config: Any, foreign: ForeignModelOptions) -> Network:
    """Create a network that outputs the features before its classifier, or the projection of an image-text model."""
    foreign.refuse(("--labels",), f"{PREFIX}{name} gives an embedding, which has no labels")
    if foreign.task not in (None, "embedding"):
        raise InputError(
            f"--task {foreign.task}: {PREFIX}{name} has no classifier; leave --task out for its embedding",
            code="option.task_of_pretrained",
        )
    count = int(config.num_classes)
    if count and infer_imagenet_subset({"num_classes": count}) is None:
        return Network(network_spec(name, _embedding_task(count), foreign), pretrained=True)
    # Created with the classes of the weights, so that timm loads all of them; then the head is removed.
    network = Network(network_spec(name, _embedding_task(count or 1), foreign), pretrained=True)
    headless: Any = network.backbone.eval()
    headless.reset_classifier(0)
    with torch.inference_mode():
        size = headless(torch.zeros(1, 3, *network.spec.input.shape[:2])).shape[1]
    return network.with_spec(network_spec(name, _embedding_task(size), foreign))


def _embedding_task(size: int) -> TaskSpec:
    return TaskSpec(task="embedding", embedding_size=size)
