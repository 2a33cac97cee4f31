"""Names of the parts of a data set. Similar names are rejected, so that they are not mistaken for classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.sample import listed

PARTS = ("base", "train", "val", "test")
_PART_WORDS = {
    "train": "train(?:ing)?",
    "val": "val(?:id(?:ation)?)?|dev(?:elopment)?|eval(?:uation)?",
    "test": "test(?:ing)?|holdout",
}
_BEFORE, _AFTER = "(?:is|in|for|images?|data|dataset)", "(?:sets?|split|part|data|dataset|images?|imgs?|pictures?)"
_SIMILAR = {
    part: re.compile(rf"(?:{_BEFORE}[\W_]*)?(?:{words})[\W_]*{_AFTER}?[\W_]*(?:20\d\d)?")
    for part, words in _PART_WORDS.items()
}
_SPLIT_COLUMN = re.compile(
    r"(?:\w+_|k)?folds?[\W_\d]*|(?:\w+_)?split(?:_\w+|[\W_\d]*)|(?:partition|subset|phase)(?:_id)?|usage|stage"
)
_FLAG = re.compile(r"(?:used_)?(?:for_)?(?:train|training|val|valid|validation|test|testing)(?:_test|_val|_flag|_mask)")
_PICTURES = {"images", "image", "imgs", "img", "jpegimages", "pictures"}
_TRUTHS = {"labels", "masks", "mask", "annotations", "segmentationclass", "labels_txt"}


def part_of_name(name: str) -> str | None:
    """Return the part that a name means, such as `Valid`, `training_set`, `val2017`; None for other names."""
    return next((part for part, pattern in _SIMILAR.items() if pattern.fullmatch(name.casefold())), None)


def is_split_column(column: str) -> bool:
    """Return whether a column's name suggests that it holds the part of an image: `is_train`, `split`, `fold`."""
    return part_of_name(column) is not None or any(
        pattern.fullmatch(column.casefold()) for pattern in (_SPLIT_COLUMN, _FLAG)
    )


def misnamed_part_problems(root: Path, names: Iterable[str]) -> list[Problem]:
    """Report folders or tables whose names are similar to the names of parts."""
    similar = [(name, part) for name in sorted(names) if name not in PARTS and (part := part_of_name(Path(name).stem))]
    if not similar:
        return []
    renamed = ", ".join(f"{name} to {part}{Path(name).suffix}" for name, part in similar)
    return [
        Problem(
            "data.misnamed_part",
            f"{root}: the parts of a data set are named {', '.join(PARTS)}; rename {renamed}, or move it away",
        )
    ]


def class_folder_problems(root: Path, folders: Sequence[Path]) -> list[Problem]:
    """Report folders that are not class folders, because their names are those of parts or of another layout."""
    names = {folder.name for folder in folders}
    if parts := sorted(name for name in names if name in PARTS[1:]):
        return [
            Problem(
                "data.parts_without_classes",
                f"{root}: {', '.join(parts)} contain no class folders; expected {parts[0]}/<label>/<image>",
            )
        ]
    if misnamed := misnamed_part_problems(root, names):
        return misnamed
    words = {name.casefold() for name in names}
    if words <= _PICTURES | _TRUTHS and words & _PICTURES:
        return [
            Problem(
                "data.other_layout",
                f"{root}: contains {', '.join(sorted(names))}, not class folders; for masks set data.path and "
                "data.masks (--masks), for labels in files write a CSV with image_path and label",
            )
        ]
    inner = [child for folder in folders for child in sorted(folder.iterdir())]
    deep = [str(child) for child in inner if child.is_dir() and part_of_name(child.name) is not None]
    return listed(
        f"parts inside class folders; expected {root.name}/<part>/<label>/<image>", deep, code="data.parts_in_classes"
    )
