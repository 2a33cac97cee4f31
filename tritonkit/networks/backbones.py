"""Networks by name: from timm, torchvision (classifiers), segmentation-models-pytorch, or a plugin."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, cast

import segmentation_models_pytorch as smp
import timm
from torch import nn

from tritonkit.errors import ExternalError, SpecError
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.hub import check_available, check_url_available
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.networks.torchvision_networks import (
    PREFIX,
    head_name,
    is_torchvision,
    torchvision_arguments,
    torchvision_name_like,
    torchvision_network,
    torchvision_recipe,
    torchvision_weights,
)
from tritonkit.plugins import find_plugin, registered_plugins
from tritonkit.spec import Architecture, Normalize

ALIASES = {
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3small": "mobilenetv3_small_100",
    "mobilenetv3large": "mobilenetv3_large_100",
    "wideresnet502": "wide_resnet50_2",
    "wideresnet1012": "wide_resnet101_2",
    "inceptionv4": "inception_v4",
    "inceptionresnetv2": "inception_resnet_v2",
}
"""timm's names for names in other libraries; the keys are in lower case, without `-`, `_` and spaces."""
_COMMON_NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "wide_resnet101_2", "efficientnet_b0", "efficientnet_b3", "efficientnet_b4"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
)
"""timm's names of networks that are also written like ResNet-18 or WideResNet-50-2."""
HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""timm's prefixes of names on the Hugging Face Hub."""
_REFUSED_ARGUMENTS = ("checkpoint_path", "classes", "encoder_weights", "in_channels", "num_classes", "pretrained")
"""Arguments that repeat fields of the spec, or open files that are not part of it."""

# timm's crop modes: `border` shows the whole image with a margin; `pad` is the same without the margin.
_FITS: dict[str, Literal["pad", "squash"]] = {"squash": "squash", "border": "pad"}


def timm_name(name: str) -> str:
    """Convert a network's name to timm's spelling: ResNet-18, MobileNetV3 small, hf-hub:timm/resnet18.

    Raises SpecError for a model of the Hugging Face Hub that is not timm's own.
    """
    prefix, name = _hub_prefix(name)
    owner, slash, model = name.rpartition("/")
    if owner == "timm":
        name = model
    elif prefix and slash:
        raise SpecError(
            f"{prefix}{name}: only timm's own models of the hub are supported (hf-hub:timm/NAME). Download the "
            "weights, and pass the file together with timm's name of the network",
            code="architecture.hub_model",
        )
    if timm.is_model(name):
        return name
    known_names = {_without_separators(known): known for known in _COMMON_NAMES} | ALIASES
    return known_names.get(_without_separators(name), name)


def architecture_of(name: str, height: int, width: int, option: str = "size") -> Architecture:
    """Return the architecture `name` of timm, torchvision or a plugin, for images of this size.

    option: name of the size in errors. Raises SpecError for an unknown name or an unsupported size.
    """
    if is_torchvision(name):
        arguments = torchvision_arguments(name, height, width, option)
        return Architecture(library="torchvision", name=name.removeprefix(PREFIX), arguments=arguments)
    if name in registered_plugins("model") or (":" in name and not _hub_prefix(name)[0]):
        find_plugin("model", name)
        return Architecture(library="plugin", name=name)
    name = timm_name(name)
    config = _timm_config(name)
    # Networks with position embeddings are built for one size; others take any size and lack this argument.
    return Architecture(name=name, arguments={"img_size": [height, width]} if config.fixed_input_size else {})


def dense_architecture_of(name: str, encoder: str) -> Architecture:
    """Return an architecture of segmentation-models-pytorch with an encoder, or a plugin's. Raises SpecError."""
    if name in registered_plugins("model") or ":" in name:
        find_plugin("model", name)
        return Architecture(library="plugin", name=name)
    _check_name(name.lower(), sorted(smp.MODEL_ARCHITECTURES_MAPPING), "segmentation-models-pytorch has no network")
    if not _is_encoder(encoder) and timm.is_model(timm_name(encoder)):
        encoder = f"tu-{timm_name(encoder)}"
    _check_encoder(encoder)
    return Architecture(library="smp", name=name, arguments={"encoder_name": encoder})


def build_backbone(architecture: Architecture, classes: int, pretrained: bool) -> nn.Module:
    """Build a network from normalised pixels float32 [N, 3, H, W] to logits [N, classes] or [N, classes, H, W].

    With 0 classes it returns features [N, F]. Raises SpecError, or ExternalError if pretrained weights cannot be
    downloaded.
    """
    refused = [argument for argument in _REFUSED_ARGUMENTS if argument in architecture.arguments]
    if refused:
        raise SpecError(
            f"{architecture.name}: remove these arguments: {', '.join(refused)}", code="architecture.arguments"
        )
    if architecture.arguments.get("in_chans", 3) != 3:
        raise SpecError(f"{architecture.name}: models take RGB images; remove `in_chans`", code="architecture.channels")
    if architecture.library == "pipeline":
        raise SpecError(
            f"{architecture.name} calls other models: no network can be built from it", code="architecture.pipeline"
        )
    if architecture.library == "graph":
        raise SpecError(
            f"{architecture.name} is a graph from a file: no network can be built from it. "
            "Use that file, or the checkpoint that it was exported from",
            code="architecture.graph",
        )
    builder = {"timm": _timm, "torchvision": _torchvision, "smp": _smp, "plugin": _plugin}[architecture.library]
    try:
        network: nn.Module = builder(architecture, classes, pretrained)
    except (SpecError, ExternalError):
        raise
    except OSError as error:
        raise ExternalError(
            f"the pretrained weights of {architecture.name} cannot be downloaded: {error}", code="weights.download"
        ) from error
    except Exception as error:  # each constructor raises its own error for unexpected arguments
        raise SpecError(
            f"{architecture.library} cannot build {architecture.name} {architecture.arguments}: {error}",
            code="architecture.build",
        ) from error
    return network


def head_of(backbone: nn.Module) -> nn.Module:
    """Return the classification head of a network; fine-tuning may freeze the rest.

    Raises SpecError for a plugin's network whose head is not known.
    """
    if type(backbone).__module__.startswith("torchvision."):
        return backbone.get_submodule(head_name(backbone))
    if hasattr(backbone, "get_classifier"):  # timm's method
        head: Any = backbone.get_classifier()  # type: ignore[operator] # torch types attributes as tensors
        # Distilled networks have two heads.
        return nn.ModuleList(head) if isinstance(head, tuple) else cast("nn.Module", head)
    if hasattr(backbone, "encoder"):
        return nn.ModuleList(module for name, module in backbone.named_children() if name != "encoder")
    raise SpecError(
        f"the head of {type(backbone).__name__} is not known: add a method get_classifier() that returns the last "
        "layer, or train without frozen_epochs",
        code="architecture.head",
    )


def recipe_of(name: str, library_weights: bool = True) -> PretrainedRecipe:
    """Return the preprocessing that timm or torchvision documents for its weights of this name. Raises SpecError."""
    if is_torchvision(name):
        return torchvision_recipe(name, library_weights)
    tag = _timm_config(timm_name(name)).tag or ""
    return PretrainedRecipe(timm_preprocess(name), timm_normalize(name), f"timm's for {name}", tag)


def normalize_of(architecture: Architecture) -> Normalize:
    """Return the mean and std that pretrained weights expect; ImageNet's for a plugin's network."""
    if architecture.library == "torchvision":
        return torchvision_recipe(architecture.name).normalize
    if architecture.library == "plugin":
        return Normalize(mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD)
    return timm_normalize(str(architecture.arguments.get("encoder_name", architecture.name)))


def torchvision_name_hint(name: str) -> str:
    """Return a hint if torchvision has a network of the same name with other tensors, else an empty string."""
    similar = None if is_torchvision(name) else torchvision_name_like(name)
    return f" For the weights of torchvision's network, use the name {similar}." if similar else ""


def timm_normalize(name: str) -> Normalize:
    """Return the mean and std that the pretrained weights of a timm model or encoder expect."""
    name = timm_name(name.removeprefix("tu-").removeprefix("timm-"))
    if not timm.is_model(name):
        return Normalize(mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD)
    config = _timm_config(name)
    return Normalize(mean=config.mean, std=config.std)


def timm_weights(name: str) -> Any:
    """Return timm's `PretrainedCfg` of the weights with this name, `resnet18` or `resnet18.a1_in1k`.

    Raises SpecError if timm has no such model, or no weights for it.
    """
    config = _timm_config(name)
    if not config.has_weights:
        others = timm.list_pretrained(f"{name.split('_', 1)[0]}*")[:5]
        hint = f"; similar: {', '.join(others)}" if others else ""
        raise SpecError(
            f"timm {timm.__version__} has no pretrained weights for {name!r}{hint}", code="weights.not_found"
        )
    return config


def timm_preprocess(name: str) -> Preprocess:
    """Return the evaluation size, crop ratio and interpolation that timm documents for this name."""
    config = _timm_config(timm_name(name))
    _, height, width = config.input_size
    interpolation: Literal["bilinear", "bicubic"] = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    return Preprocess(
        height=height,
        width=width,
        fit=_FITS.get(config.crop_mode, "crop"),
        crop_ratio=config.crop_pct or 1.0,
        interpolation=interpolation,
    )


def _hub_prefix(name: str) -> tuple[str, str]:
    """Split a name into timm's prefix of the hub, empty if absent, and the rest."""
    prefix = next((prefix for prefix in HUB_PREFIXES if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix)


def _without_separators(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _check_name(name: str, known: list[str], message: str) -> None:
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=5)
        hint = f"similar: {', '.join(similar)}" if similar else f"it has {', '.join(known[:12])}, …"
        raise SpecError(f"{message} {name!r}; {hint}", code="architecture.unknown")


def _timm_config(name: str) -> Any:
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5)
        if torchvision_name := torchvision_name_like(name):
            similar = [torchvision_name, *similar]
        hint = f"; similar: {', '.join(similar)}" if similar else ""
        raise SpecError(
            f"timm {timm.__version__} has no model {name!r}{hint}. See timm.list_models().", code="architecture.unknown"
        )
    try:
        return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:  # the model does not have the tag after the dot
        raise SpecError(
            f"timm {timm.__version__} has no weights {name!r}. See timm.list_pretrained().", code="weights.not_found"
        ) from error


def _timm(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    config = _timm_config(architecture.name)
    if pretrained:
        check_available(architecture.name, config)
    arguments: dict[str, Any] = {**architecture.arguments, "num_classes": classes, "pretrained": pretrained}
    return timm.create_model(architecture.name, **arguments)


def _torchvision(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    if pretrained:
        check_url_available(f"{PREFIX}{architecture.name}", torchvision_weights(architecture.name).url)
    return torchvision_network(architecture.name, classes, pretrained, architecture.arguments)


def _is_encoder(name: str) -> bool:
    return name in smp.encoders.get_encoder_names() or (
        name.startswith("tu-") and timm.is_model(name.removeprefix("tu-"))
    )


def _check_encoder(name: str) -> None:
    if not _is_encoder(name):
        _check_name(name, smp.encoders.get_encoder_names(), "segmentation-models-pytorch has no encoder")


def _smp(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    # An unchecked name from a third-party checkpoint could make timm read the disk or the hub.
    _check_encoder(str(architecture.arguments.get("encoder_name", "resnet34")))
    arguments: dict[str, Any] = {**architecture.arguments, "encoder_weights": "imagenet" if pretrained else None}
    return smp.create_model(architecture.name, in_channels=3, classes=classes, **arguments)


def _plugin(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    if pretrained:
        raise SpecError(
            f"{architecture.name}: a plugin's model has no pretrained weights; set model.weights to a file",
            code="weights.plugin",
        )
    return find_plugin("model", architecture.name)(num_classes=classes, **architecture.arguments)
