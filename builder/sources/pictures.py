"""How pictures are prepared for someone else's model: its library's recipe, replaced where options say otherwise.

Each value's origin is part of the source's description: a model agrees with itself under any of them, so no verdict
can tell that one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from builder.options import ForeignModelOptions
from model.errors import InputError
from model.preprocess import Preprocess
from model.recipe import Recipe
from model.spec import ModelSpec, Normalize


def applied(foreign: ForeignModelOptions, recipe: Recipe) -> tuple[Preprocess, Normalize]:
    """Replace values of the recipe by options. Raises InputError for a crop ratio of pictures that are not cropped."""
    how, normalize = recipe.preprocess, recipe.normalize
    fit = foreign.fit or how.fit
    if foreign.crop_ratio is not None and fit != "crop":
        raise InputError(f"--crop-ratio: pictures are fitted by {fit} ({recipe.origin}); give --fit crop too")
    height, width = foreign.size or (how.height, how.width)
    preprocess = replace(
        how,
        height=height,
        width=width,
        fit=fit,
        crop_ratio=(foreign.crop_ratio or how.crop_ratio) if fit == "crop" else 1.0,
        interpolation=foreign.interpolation or how.interpolation,
    )
    return preprocess, Normalize(mean=foreign.mean or normalize.mean, std=foreign.std or normalize.std)


def described_normalize(normalize: Normalize, foreign: ForeignModelOptions, origin: str) -> str:
    """Mean and std, and where each comes from."""
    origins = _origins({"mean": foreign.mean is not None, "std": foreign.std is not None}, origin)
    return f"mean {_triple(normalize.mean)}, std {_triple(normalize.std)} ({origins})"


def described_fit(how: Preprocess, foreign: ForeignModelOptions, origin: str) -> str:
    """How a picture is fitted to the size, and where each part of that comes from."""
    kept = f"{how.fit}, keeps {how.crop_ratio:.3g}" if how.fit == "crop" else how.fit
    given = {"fit": foreign.fit is not None, "interpolation": foreign.interpolation is not None}
    if how.fit == "crop":
        given["crop ratio"] = foreign.crop_ratio is not None
    origins = _origins(given, origin) if any(given.values()) else origin
    return f"pictures: {kept}, {how.interpolation} ({origins})"


def described_pictures(spec: ModelSpec, foreign: ForeignModelOptions, recipe: Recipe) -> str:
    """All that was taken from a recipe or an option, for a network that does not say it itself."""
    how = spec.preprocess
    size = f"{how.height} x {how.width} RGB ({_origins({'size': foreign.size is not None}, recipe.origin)})"
    normalized = described_normalize(spec.normalize, foreign, recipe.origin)
    return f"takes {size}, {normalized}; {described_fit(how, foreign, recipe.source)}"


def _origins(given: Mapping[str, bool], origin: str) -> str:
    """Such as `mean: --mean; std: timm's for resnet18`."""
    said = [name for name, by_option in given.items() if by_option]
    taken = [name for name, by_option in given.items() if not by_option]
    parts = [f"{name}: --{name.replace(' ', '-')}" for name in said]
    return "; ".join([*parts, *([f"{' and '.join(taken)}: {origin}"] if taken else [])])


def _triple(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
