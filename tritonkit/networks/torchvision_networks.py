"""torchvision's classifiers: `torchvision/resnet18`, or with weights `torchvision/resnet50.IMAGENET1K_V1`.

GoogLeNet and Inception v3 are built without their auxiliary heads, which only training uses, and without
`transform_input`: that layer converts ImageNet's mean and std to 0.5, so the recipe has a mean and std of 0.5.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, cast

import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.spec import Normalize

PREFIX = "torchvision/"
_TRANSFORM_INPUT = ("googlenet", "inception_v3")
_HALF = (0.5, 0.5, 0.5)
_SIZE_ARGUMENT = {"vit": "image_size", "maxvit": "input_size"}
_MAXVIT_STEP = 224
"""A stem and four stages halve the sides five times; the result must be a multiple of the window, 7."""


def is_torchvision(name: str) -> bool:
    """Whether a name has torchvision's prefix."""
    return name.startswith(PREFIX)


def torchvision_name_like(name: str) -> str | None:
    """Return torchvision's classifier with the same spelling as `name`, with its prefix; None without one."""
    plain = {re.sub(r"[-_ ]", "", known): known for known in _known()}
    found = plain.get(re.sub(r"[-_ ]", "", name.lower()))
    return found and PREFIX + found


def torchvision_weights(name: str) -> WeightsEnum:
    """Return the weights of a name: those of its tag, else torchvision's default. Raises SpecError."""
    model, _, tag = name.removeprefix(PREFIX).partition(".")
    if model not in _known():
        similar = difflib.get_close_matches(model, _known(), n=5)
        hint = f"; similar: {', '.join(PREFIX + match for match in similar)}" if similar else ""
        raise SpecError(
            f"torchvision {torchvision.__version__} has no classifier {model!r}{hint}. "
            "See torchvision.models.list_models(module=torchvision.models).",
            code="architecture.unknown",
        )
    known = cast("dict[str, WeightsEnum]", get_model_weights(model).__members__)
    if (tag or "DEFAULT") not in known:
        tags = ", ".join(f"{PREFIX}{model}.{key}" for key in known if key != "DEFAULT")
        raise SpecError(f"torchvision has no weights {tag!r} for {model}; it has {tags}", code="weights.not_found")
    return known[tag or "DEFAULT"]


def torchvision_recipe(name: str, library_weights: bool = True) -> PretrainedRecipe:
    """Return size, crop, interpolation, mean and std that torchvision documents for the weights of this name.

    library_weights: whether the network has torchvision's weights. As in torchvision, `transform_input` is on for
    these and for a name with a tag, and off for other weights.
    """
    weights = torchvision_weights(name)
    model, _, tag = name.removeprefix(PREFIX).partition(".")
    transforms: Any = weights.transforms()
    side = transforms.crop_size[0]
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if transforms.interpolation.value == "bilinear" else "bicubic"
    )
    normalize = Normalize(mean=tuple(transforms.mean), std=tuple(transforms.std))
    note = ""
    if model in _TRANSFORM_INPUT and (library_weights or tag):
        normalize = Normalize(mean=_HALF, std=_HALF)
        note = "; its transform_input is in mean and std"
    elif model in _TRANSFORM_INPUT:
        note = f"; without transform_input: for weights trained from torchvision's own name {name}.{weights.name}"
    crop_ratio = min(1.0, side / transforms.resize_size[0])
    preprocess = Preprocess(side, side, crop_ratio=crop_ratio, interpolation=interpolation)
    return PretrainedRecipe(preprocess, normalize, f"torchvision's for {model}", weights.name + note)


def torchvision_arguments(name: str, height: int, width: int, option: str) -> dict[str, Any]:
    """Return the constructor's arguments for images of this size. Raises SpecError for an unsupported size.

    option: name of the size in errors.
    """
    model = name.removeprefix(PREFIX).partition(".")[0]
    torchvision_weights(name)
    family = model.split("_")[0]
    if family not in _SIZE_ARGUMENT:
        return {}
    step = int(model.split("_")[2]) if family == "vit" else _MAXVIT_STEP
    if height % step or width % step or height != width:
        shape = f"{height}" if height == width else f"{height}x{width}"
        fitting = max(-(-side // step) * step for side in (height, width))
        step_text = f"the patch size {step}" if family == "vit" else f"{step}, the minimum size"
        reason = f"is not a multiple of {step_text} of {name}" if height == width else f"is not square, as {name} needs"
        raise SpecError(f"{option} {shape} {reason}; use {fitting}", code="architecture.patch_size")
    return {_SIZE_ARGUMENT[family]: height if family == "vit" else [height, width]}


def torchvision_network(name: str, classes: int, pretrained: bool, arguments: dict[str, Any]) -> Any:
    """Build a classifier with `classes` outputs; with 0, it returns the features before its last layer."""
    weights, model = torchvision_weights(name), name.partition(".")[0]
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if pretrained:
        network = get_model(model, weights=weights, **arguments)
        outputs = len(weights.meta["categories"])
    else:
        outputs = classes or 1
        quick = {"init_weights": False} if model in _TRANSFORM_INPUT else {}
        network = get_model(model, weights=None, num_classes=outputs, **quick, **arguments)
    if model in _TRANSFORM_INPUT:
        network.transform_input = network.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, auxiliary):
                setattr(network, auxiliary, None)
    if classes != outputs:
        path = head_name(network)
        layer = network.get_submodule(path)
        head: nn.Module = nn.Identity()
        if classes and isinstance(layer, nn.Conv2d):
            head = nn.Conv2d(layer.in_channels, classes, layer.kernel_size)  # type: ignore[arg-type] # it is a pair
        elif classes and isinstance(layer, nn.Linear):
            head = nn.Linear(layer.in_features, classes)
        network.set_submodule(path, head)
    return network


def head_name(network: nn.Module) -> str:
    """Return the module path of the last layer, which has one output for each class."""
    layers: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _known() -> list[str]:
    known: list[str] = list_models(module=torchvision.models)
    return known
