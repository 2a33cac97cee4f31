"""Networks by name: timm's, torchvision's classifiers, segmentation-models-pytorch's, or one's own."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, cast

import segmentation_models_pytorch as smp
import timm
from torch import nn

from model.errors import ExternalError, SpecError
from model.hub import check_at_hand, check_url_at_hand
from model.plugins import find, plugged_in
from model.preprocess import Preprocess
from model.recipe import Recipe
from model.spec import Architecture, Normalize
from model.torchvision_networks import (
    PREFIX,
    head_name,
    is_torchvision,
    torchvision_arguments,
    torchvision_name_like,
    torchvision_network,
    torchvision_recipe,
    torchvision_weights,
)

ALIASES = {
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3small": "mobilenetv3_small_100",
    "mobilenetv3large": "mobilenetv3_large_100",
    "wideresnet502": "wide_resnet50_2",
    "wideresnet1012": "wide_resnet101_2",
    "inceptionv4": "inception_v4",
    "inceptionresnetv2": "inception_resnet_v2",
}
"""Names that other libraries use, in lower case and without `-`, `_` and spaces, and timm's for them."""
_COMMON_NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "wide_resnet101_2", "efficientnet_b0", "efficientnet_b3", "efficientnet_b4"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
)
"""timm's names of networks that people also write as ResNet-18 or WideResNet-50-2."""
HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""How timm writes that a name is one of the hub."""
_REFUSED_ARGUMENTS = ("checkpoint_path", "classes", "encoder_weights", "in_channels", "num_classes", "pretrained")
"""Arguments that would say again what a spec says, or open files that it does not carry."""

# timm's crop modes: `border` shows the whole picture with a margin, which is `pad` without the margin.
_FITS: dict[str, Literal["pad", "squash"]] = {"squash": "squash", "border": "pad"}


def timm_name(name: str) -> str:
    """timm's name for a network that may be spelled as elsewhere: ResNet-18, MobileNetV3 small, hf-hub:timm/resnet18.

    Raises SpecError for a model of the hub that is not timm's own.
    """
    prefix, name = _hub_prefix(name)
    owner, slash, model = name.rpartition("/")
    if owner == "timm":
        name = model
    elif prefix and slash:
        raise SpecError(
            f"{prefix}{name}: of the hub, timm's own models alone are taken (hf-hub:timm/NAME). Download its weights, "
            "and give them as a file with timm's name of the network"
        )
    if timm.is_model(name):
        return name
    known_names = {_without_separators(known): known for known in _COMMON_NAMES} | ALIASES
    return known_names.get(_without_separators(name), name)


def architecture_of(name: str, height: int, width: int, option: str = "size") -> Architecture:
    """The architecture `name`, of timm, torchvision or a plugin, for images of this size.

    option: what the size is called in errors. Raises SpecError for an unknown name, or a size it cannot take.
    """
    if is_torchvision(name):
        arguments = torchvision_arguments(name, height, width, option)
        return Architecture(library="torchvision", name=name.removeprefix(PREFIX), arguments=arguments)
    if name in plugged_in("model") or (":" in name and not _hub_prefix(name)[0]):
        find("model", name)
        return Architecture(library="plugin", name=name)
    name = timm_name(name)
    config = _timm_config(name)
    # Networks with position tables are built for one size; others take any and know no such argument.
    return Architecture(name=name, arguments={"img_size": [height, width]} if config.fixed_input_size else {})


def dense_architecture_of(name: str, encoder: str) -> Architecture:
    """A network of segmentation-models-pytorch over a named encoder, or a plugin's. Raises SpecError."""
    if name in plugged_in("model") or ":" in name:
        find("model", name)
        return Architecture(library="plugin", name=name)
    _check_name(name.lower(), sorted(smp.MODEL_ARCHITECTURES_MAPPING), "segmentation-models-pytorch has no network")
    if not _is_encoder(encoder) and timm.is_model(timm_name(encoder)):
        encoder = f"tu-{timm_name(encoder)}"
    _check_encoder(encoder)
    return Architecture(library="smp", name=name, arguments={"encoder_name": encoder})


def build_backbone(architecture: Architecture, classes: int, pretrained: bool) -> nn.Module:
    """From normalised pixels float32 [N, 3, H, W] to raw values [N, classes] or [N, classes, H, W].

    With 0 classes, to features [N, F]. Raises SpecError, or ExternalError where pretrained weights cannot be fetched.
    """
    refused = [argument for argument in _REFUSED_ARGUMENTS if argument in architecture.arguments]
    if refused:
        raise SpecError(f"{architecture.name}: leave out of its arguments: {', '.join(refused)}")
    if architecture.arguments.get("in_chans", 3) != 3:
        raise SpecError(f"{architecture.name}: the kit's models take RGB; leave `in_chans` out")
    if architecture.library == "graph":
        raise SpecError(
            f"{architecture.name} came as a graph, an ONNX or TorchScript file: there is no network to build from it. "
            "Use that file, or the checkpoint that it was made from"
        )
    builder = {"timm": _timm, "torchvision": _torchvision, "smp": _smp, "plugin": _plugin}[architecture.library]
    try:
        network: nn.Module = builder(architecture, classes, pretrained)
    except (SpecError, ExternalError):
        raise
    except OSError as error:
        raise ExternalError(f"the pretrained weights of {architecture.name} could not be fetched: {error}") from error
    except Exception as error:  # a constructor fails in its own way on arguments it does not expect
        raise SpecError(
            f"{architecture.library} cannot build {architecture.name} {architecture.arguments}: {error}"
        ) from error
    return network


def head_of(backbone: nn.Module) -> nn.Module:
    """The part of a network that is made for its classes; the rest is what fine-tuning may freeze.

    Raises SpecError for a network of one's own that does not tell.
    """
    if type(backbone).__module__.startswith("torchvision."):
        return backbone.get_submodule(head_name(backbone))
    if hasattr(backbone, "get_classifier"):  # timm's word
        head: Any = backbone.get_classifier()  # type: ignore[operator] # torch types attributes as tensors
        # Distilled networks have two.
        return nn.ModuleList(head) if isinstance(head, tuple) else cast("nn.Module", head)
    if hasattr(backbone, "encoder"):
        return nn.ModuleList(module for name, module in backbone.named_children() if name != "encoder")
    raise SpecError(
        f"{type(backbone).__name__} does not tell its head from its backbone: give it a method get_classifier() that "
        "returns the last layer, or train without frozen_epochs"
    )


def recipe_of(name: str, library_weights: bool = True) -> Recipe:
    """How timm or torchvision prepares pictures for its weights of this name. Raises SpecError."""
    if is_torchvision(name):
        return torchvision_recipe(name, library_weights)
    tag = _timm_config(timm_name(name)).tag or ""
    return Recipe(timm_preprocess(name), timm_normalize(name), f"timm's for {name}", tag)


def normalize_of(architecture: Architecture) -> Normalize:
    """The mean and std that pretrained weights expect; of a network of one's own ImageNet's, whatever its name."""
    if architecture.library == "torchvision":
        return torchvision_recipe(architecture.name).normalize
    if architecture.library == "plugin":
        return Normalize(mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD)
    return timm_normalize(str(architecture.arguments.get("encoder_name", architecture.name)))


def library_hint(name: str) -> str:
    """That torchvision has a network spelled like this one, which has other tensors; empty where it has none."""
    like = None if is_torchvision(name) else torchvision_name_like(name)
    return f" For weights of torchvision's own network the name is {like}." if like else ""


def timm_normalize(name: str) -> Normalize:
    """The mean and std that the pretrained weights of this timm model, or of this encoder, expect."""
    name = timm_name(name.removeprefix("tu-").removeprefix("timm-"))
    if not timm.is_model(name):
        return Normalize(mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD)
    config = _timm_config(name)
    return Normalize(mean=config.mean, std=config.std)


def timm_weights(name: str) -> Any:
    """timm's `PretrainedCfg` of the weights it has by this name, `resnet18` or `resnet18.a1_in1k`.

    Raises SpecError where it knows no such model, or has no weights for it.
    """
    config = _timm_config(name)
    if not config.has_weights:
        others = timm.list_pretrained(f"{name.split('_', 1)[0]}*")[:5]
        hint = f"; near it: {', '.join(others)}" if others else ""
        raise SpecError(f"timm {timm.__version__} has no pretrained weights for {name!r}{hint}")
    return config


def timm_preprocess(name: str) -> Preprocess:
    """The evaluation size, crop ratio and interpolation that timm documents for this name."""
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
    """timm's own prefix for a name of the hub, empty where there is none, and the rest."""
    prefix = next((prefix for prefix in HUB_PREFIXES if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix)


def _without_separators(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _check_name(name: str, known: list[str], complaint: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5)
        hint = f"near it: {', '.join(near)}" if near else f"it has {', '.join(known[:12])}, …"
        raise SpecError(f"{complaint} {name!r}; {hint}")


def _timm_config(name: str) -> Any:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        if like := torchvision_name_like(name):
            near = [like, *near]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise SpecError(f"timm {timm.__version__} has no model {name!r}{hint}. See timm.list_models().")
    try:
        return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:  # a tag after the dot that the model does not have
        raise SpecError(f"timm {timm.__version__} has no weights {name!r}. See timm.list_pretrained().") from error


def _timm(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    config = _timm_config(architecture.name)
    if pretrained:
        check_at_hand(architecture.name, config)
    arguments: dict[str, Any] = {**architecture.arguments, "num_classes": classes, "pretrained": pretrained}
    return timm.create_model(architecture.name, **arguments)


def _torchvision(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    if pretrained:
        check_url_at_hand(f"{PREFIX}{architecture.name}", torchvision_weights(architecture.name).url)
    return torchvision_network(architecture.name, classes, pretrained, architecture.arguments)


def _is_encoder(name: str) -> bool:
    return name in smp.encoders.get_encoder_names() or (
        name.startswith("tu-") and timm.is_model(name.removeprefix("tu-"))
    )


def _check_encoder(name: str) -> None:
    if not _is_encoder(name):
        _check_name(name, smp.encoders.get_encoder_names(), "segmentation-models-pytorch has no encoder")


def _smp(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    # A name from a stranger's checkpoint might have timm look on a disk, or on the hub.
    _check_encoder(str(architecture.arguments.get("encoder_name", "resnet34")))
    arguments: dict[str, Any] = {**architecture.arguments, "encoder_weights": "imagenet" if pretrained else None}
    return smp.create_model(architecture.name, in_channels=3, classes=classes, **arguments)


def _plugin(architecture: Architecture, classes: int, pretrained: bool) -> Any:
    if pretrained:
        raise SpecError(
            f"{architecture.name}: a model of one's own has no pretrained weights by name; use model.weights"
        )
    return find("model", architecture.name)(num_classes=classes, **architecture.arguments)
