"""Names of the parts of a data set, and names that are nearly one: those are refused, never taken for classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from train.samples import listed

PARTS = ("base", "train", "val", "test")
_MEANT = {
    "train": "train(?:ing)?",
    "val": "val(?:id(?:ation)?)?|dev(?:elopment)?|eval(?:uation)?",
    "test": "test(?:ing)?|holdout",
}
_BEFORE, _AFTER = "(?:is|in|for|images?|data|dataset)", "(?:sets?|split|part|data|dataset|images?|imgs?|pictures?)"
_NEAR = {
    part: re.compile(rf"(?:{_BEFORE}[\W_]*)?(?:{words})[\W_]*{_AFTER}?[\W_]*(?:20\d\d)?")
    for part, words in _MEANT.items()
}
_SPLIT_COLUMN = re.compile(
    r"(?:\w+_|k)?folds?[\W_\d]*|(?:\w+_)?split(?:_\w+|[\W_\d]*)|(?:partition|subset|phase)(?:_id)?|usage|stage"
)
_FLAG = re.compile(r"(?:used_)?(?:for_)?(?:train|training|val|valid|validation|test|testing)(?:_test|_val|_flag|_mask)")
_PICTURES = {"images", "image", "imgs", "img", "jpegimages", "pictures"}
_TRUTHS = {"labels", "masks", "mask", "annotations", "segmentationclass", "labels_txt"}


def part_of_name(name: str) -> str | None:
    """The part that a name means, however it is written: `Valid`, `training_set`, `val2017`; None for other names."""
    return next((part for part, near in _NEAR.items() if near.fullmatch(name.casefold())), None)


def tells_split(column: str) -> bool:
    """Whether a column is named as if it said which part a picture is in: `is_train`, `split`, `fold`."""
    return part_of_name(column) is not None or any(
        known.fullmatch(column.casefold()) for known in (_SPLIT_COLUMN, _FLAG)
    )


def misnamed_parts(root: Path, names: Iterable[str]) -> list[str]:
    """The problem with folders or tables that are named nearly like parts."""
    near = [(name, part) for name in sorted(names) if name not in PARTS and (part := part_of_name(Path(name).stem))]
    if not near:
        return []
    renamed = ", ".join(f"{name} to {part}{Path(name).suffix}" for name, part in near)
    return [f"{root}: the parts of a data set are named {', '.join(PARTS)}; rename {renamed}, or move it away"]


def not_classes(root: Path, folders: Sequence[Path]) -> list[str]:
    """What is wrong with these as class folders, where their names are those of parts or of another layout."""
    names = {folder.name for folder in folders}
    if meant := {name for name in names if name in PARTS[1:]}:
        return [
            f"{root}: {', '.join(sorted(meant))} hold no class folders; expected {sorted(meant)[0]}/<label>/<picture>"
        ]
    if misnamed := misnamed_parts(root, names):
        return misnamed
    words = {name.casefold() for name in names}
    if words <= _PICTURES | _TRUTHS and words & _PICTURES:
        return [
            f"{root}: holds {', '.join(sorted(names))}, not class folders; for masks give data.path and data.masks "
            "(--masks), for labels in files a CSV of image_path and label"
        ]
    deep = [str(inner) for folder in folders for inner in _inner_parts(folder)]
    return listed(f"parts inside of class folders, where {root.name}/<part>/<label>/<picture> is expected", deep)


def _inner_parts(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and part_of_name(child.name) is not None]
