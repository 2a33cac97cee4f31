"""The labels and the preprocessing of a third-party model: its library's recipe, with values replaced by options.

The source's description names the origin of each value: an artifact agrees with its source under any preprocessing, so
no verdict can show a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tritonkit.errors import InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.pretrained_recipe import PretrainedRecipe
from tritonkit.remotes import local_path
from tritonkit.spec import ModelSpec, Normalize


def read_labels(location: Path | str) -> tuple[str, ...]:
    """Read the labels of a UTF-8 file in order. Raises InputError, and SpecError for a blank line."""
    path = local_path(location)
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot read the labels ({error}); expected one per line, in UTF-8",
            code="source.unreadable_labels",
        ) from error
    while labels and not labels[-1]:
        labels.pop()
    blank = [number for number, label in enumerate(labels, 1) if not label]
    if blank:
        raise SpecError(
            f"{path}: no label in line {', '.join(map(str, blank[:5]))}; expected one per line",
            code="source.blank_label",
        )
    return tuple(labels)


def apply_options(foreign: ForeignModelOptions, recipe: PretrainedRecipe) -> tuple[Preprocess, Normalize]:
    """Replace values of the recipe by options. Raises InputError for a crop ratio without cropping."""
    defaults, normalize = recipe.preprocess, recipe.normalize
    fit = foreign.fit or defaults.fit
    if foreign.crop_ratio is not None and fit != "crop":
        raise InputError(
            f"--crop-ratio: images are fitted by {fit} ({recipe.origin}); set --fit crop too",
            code="option.crop_ratio_without_crop",
        )
    height, width = foreign.size or (defaults.height, defaults.width)
    preprocess = replace(
        defaults,
        height=height,
        width=width,
        fit=fit,
        crop_ratio=(foreign.crop_ratio or defaults.crop_ratio) if fit == "crop" else 1.0,
        interpolation=foreign.interpolation or defaults.interpolation,
    )
    return preprocess, Normalize(mean=foreign.mean or normalize.mean, std=foreign.std or normalize.std)


def describe_normalize(normalize: Normalize, foreign: ForeignModelOptions, origin: str) -> str:
    """Describe mean and std, with the origin of each."""
    origins = _origins({"mean": foreign.mean is not None, "std": foreign.std is not None}, origin)
    return f"mean {_triple(normalize.mean)}, std {_triple(normalize.std)} ({origins})"


def describe_fit(preprocess: Preprocess, foreign: ForeignModelOptions, origin: str) -> str:
    """Describe how an image is fitted to the input size, with the origin of each value."""
    fit = preprocess.fit
    fit_text = f"{fit}, keeps {preprocess.crop_ratio:.3g}" if fit == "crop" else fit
    from_option = {"fit": foreign.fit is not None, "interpolation": foreign.interpolation is not None}
    if fit == "crop":
        from_option["crop ratio"] = foreign.crop_ratio is not None
    origins = _origins(from_option, origin) if any(from_option.values()) else origin
    return f"images: {fit_text}, {preprocess.interpolation} ({origins})"


def describe_preprocessing(spec: ModelSpec, foreign: ForeignModelOptions, recipe: PretrainedRecipe) -> str:
    """Describe size, mean, std and fit of a network's preprocessing, with their origins."""
    size = f"{spec.preprocess.height} x {spec.preprocess.width} RGB"
    origins = _origins({"size": foreign.size is not None}, recipe.origin)
    normalized = describe_normalize(spec.normalize, foreign, recipe.origin)
    return f"takes {size} ({origins}), {normalized}; {describe_fit(spec.preprocess, foreign, recipe.source)}"


def _origins(from_option: Mapping[str, bool], origin: str) -> str:
    """The origin of each value, such as `mean: --mean; std: timm's for resnet18`."""
    set_by_option = [name for name, is_set in from_option.items() if is_set]
    from_recipe = [name for name, is_set in from_option.items() if not is_set]
    parts = [f"{name}: --{name.replace(' ', '-')}" for name in set_by_option]
    return "; ".join([*parts, *([f"{' and '.join(from_recipe)}: {origin}"] if from_recipe else [])])


def _triple(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
