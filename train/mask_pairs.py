"""Pictures and masks in two folders, or in one, paired by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.picture_files import PictureSearch, pictures_below
from train.samples import IMAGE, Table, listed, search_notes


def pair_masks(root: Path, masks: Path, column: str, suffix: str = "") -> Table:
    """Pair pictures with masks by their path without the extension; a mask's name ends with `suffix` besides."""
    problems = [f"{folder}: no such folder" for folder in (root, masks) if not folder.is_dir()]
    if problems:
        return Table(problems=problems)
    search = PictureSearch()
    pictures, files = pictures_below(root, search), pictures_below(masks, search)
    if root.resolve() == masks.resolve():
        files = [file for file in files if suffix and file.stem.endswith(suffix)]
        pictures = [picture for picture in pictures if picture not in set(files)]
    if suffix and not any(file.stem.endswith(suffix) for file in files):
        return Table(problems=[f"{masks}: no mask has a name that ends in {suffix} (data.mask_suffix)"])
    by_name: dict[Path, list[Path]] = {}
    for file in (file for file in files if file.stem.endswith(suffix)):
        by_name.setdefault(_name(file, masks, suffix), []).append(file)
    table, alone = Table(columns=[IMAGE, column], notes=search_notes(search)), list[Path]()
    for picture in pictures:
        found = by_name.pop(_name(picture, root), [])
        if not found:
            alone.append(picture)
        elif len(found) > 1:
            table.problems.append(f"{picture}: has two masks, {found[0]} and {found[1]}; keep one")
        else:
            table.rows.append((str(picture), {IMAGE: picture.relative_to(root), column: found[0].absolute()}))
    spare = [file for found in by_name.values() for file in found]
    if alone and spare and (ending := _suffix_of(alone, spare)):
        hint = f"set data.mask_suffix: {ending} (or --mask-suffix {ending})"
        table.problems.append(f"{masks}: all masks end in {ending}, so that none has its picture's name; {hint}")
    elif alone and spare and not table.rows:
        table.problems.append(
            f"{masks}: no mask has its picture's name; pictures are named as {alone[0].name}, masks as {spare[0].name}"
        )
    else:
        table.problems += listed(f"pictures without a mask of {_rule(suffix)}", [str(picture) for picture in alone])
        table.problems += listed(f"masks without a picture of {_rule(suffix)}", [str(mask) for mask in spare])
    return table


def _rule(suffix: str) -> str:
    return f"the same name and {suffix}" if suffix else "the same name"


def _suffix_of(alone: Sequence[Path], spare: Sequence[Path]) -> str:
    """What all masks that are left have behind the name of a picture that is left; nothing where it differs."""
    names, first = {picture.stem for picture in alone}, spare[0].stem
    endings = (first[start:] for start in range(1, len(first)))
    fits = (all(m.stem.endswith(ending) and m.stem.removesuffix(ending) in names for m in spare) for ending in endings)
    return next((first[start:] for start, fit in enumerate(fits, start=1) if fit), "")


def _name(path: Path, folder: Path, suffix: str = "") -> Path:
    relative = path.relative_to(folder)
    return relative.with_name(relative.stem.removesuffix(suffix) or relative.stem)
