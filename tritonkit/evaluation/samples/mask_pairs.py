"""Pairs images with masks by their names, in two folders or in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.sample import IMAGE, Table, listed, search_notes
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.system.tables import TableError


def pair_masks(root: Path, masks: Path, column: str, suffix: str = "") -> Table:
    """Pair images with masks by their path without extension; mask names add `suffix`. Raises TableError."""
    problems = [
        Problem("data.not_found", f"{folder}: no such folder") for folder in (root, masks) if not folder.is_dir()
    ]
    if problems:
        return Table(problems=problems)
    search = PictureSearch()
    pictures, files = pictures_below(root, search), pictures_below(masks, search)
    if root.resolve() == masks.resolve():
        files = [file for file in files if suffix and file.stem.endswith(suffix)]
        pictures = [picture for picture in pictures if picture not in set(files)]
    if suffix and not any(file.stem.endswith(suffix) for file in files):
        raise TableError(
            f"{masks}: no mask has a name that ends with {suffix} (data.mask_suffix)", code="data.mask_suffix"
        )
    by_name: dict[Path, list[Path]] = {}
    for file in (file for file in files if file.stem.endswith(suffix)):
        by_name.setdefault(_name(file, masks, suffix), []).append(file)
    table, unmasked = Table(columns=[IMAGE, column], notes=search_notes(search)), list[Path]()
    for picture in pictures:
        matches = by_name.pop(_name(picture, root), [])
        if not matches:
            unmasked.append(picture)
        elif len(matches) > 1:
            table.problems.append(
                Problem("data.two_masks", f"{picture}: has two masks, {matches[0]} and {matches[1]}; keep one")
            )
        else:
            table.rows.append((str(picture), {IMAGE: picture.relative_to(root), column: matches[0].absolute()}))
    unused = [file for matches in by_name.values() for file in matches]
    if unmasked and unused and (ending := _common_suffix(unmasked, unused)):
        hint = f"set data.mask_suffix: {ending} (or --mask-suffix {ending})"
        table.problems.append(
            Problem(
                "data.mask_suffix_missing",
                f"{masks}: all mask names end with {ending}, so that none equals its image's name; {hint}",
            )
        )
    elif unmasked and unused and not table.rows:
        table.problems.append(
            Problem(
                "data.mask_names",
                f"{masks}: no mask has its image's name; images are named like {unmasked[0].name}, masks like "
                f"{unused[0].name}",
            )
        )
    else:
        rule = f"the same name and {suffix}" if suffix else "the same name"
        table.problems += listed(
            f"images without a mask of {rule}", [str(picture) for picture in unmasked], code="data.image_without_mask"
        )
        table.problems += listed(
            f"masks without an image of {rule}", [str(mask) for mask in unused], code="data.mask_without_image"
        )
    return table


def _common_suffix(unmasked: Sequence[Path], unused: Sequence[Path]) -> str:
    """Return the suffix that all unpaired masks add to names of unpaired images; empty if there is none."""
    names, first = {picture.stem for picture in unmasked}, unused[0].stem
    endings = (first[start:] for start in range(1, len(first)))
    fits = (all(m.stem.endswith(ending) and m.stem.removesuffix(ending) in names for m in unused) for ending in endings)
    return next((first[start:] for start, fit in enumerate(fits, start=1) if fit), "")


def _name(path: Path, folder: Path, suffix: str = "") -> Path:
    relative = path.relative_to(folder)
    return relative.with_name(relative.stem.removesuffix(suffix) or relative.stem)
