"""Convert pictures of people from Debian packages to what the people example reads.

segmentation/{train,val}.csv    frames of a surveillance video and photographs, with a mask of the people
walkers/{left,right}/<n>.jpg    single people of the video, by the direction in which they walk; `walkers_test` too
scenes/<n>.jpg                  whole frames and photographs to try the models on; empty.jpg shows nobody

The video has a fixed camera. Its masks are what differs from the median frame; its directions are how far a region
moved until a later frame. The last fifth of the video is for `val`, `walkers_test` and `scenes` only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from scripts.data.tables import write_table

VIDEO = "debian/opencv-doc/usr/share/doc/opencv-doc/examples/data/vtest.avi"
PHOTOS = "debian/labelme-examples/usr/share/doc/labelme-examples/examples/instance_segmentation/data_annotated"
STEP = 3
"""Every third frame of the video is used: 3.3 a second."""
LATER = 2
"""Frames until the position that tells the direction."""
MOVED_PX = 10
DIRECTIONS = {"left": "right", "right": "left"}
"""The labels, and those of the mirrored picture."""
SMALLEST_PX = 250
TRAIN_SHARE = 0.8
SIZES = {"train": 200, "val": 40}
"""Pictures cut from the video for the segmentation; each photograph gives a tenth of the first."""
WALKER_MARGIN = 0.5
"""Share of a person's height around the person in a picture of a walker."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """A frame [H, W, 3], its regions of people numbered from 1 [H, W], and their boxes."""

    image: Pixels
    regions: NDArray[np.int32]
    boxes: list[tuple[slice, slice]]

    @property
    def mask(self) -> Mask:
        """True where people are, [H, W]."""
        return self.regions > 0


def people(packages: Path, folder: Path) -> str:
    """Write all parts."""
    video = _read_video(packages / VIDEO)
    background = np.median(video[::4], axis=0).astype(np.uint8)
    frames = [_frame(image, background) for image in video]
    end = round(TRAIN_SHARE * len(frames))
    photos = [_photo(path) for path in sorted((packages / PHOTOS).glob("*.json"))]
    masks = _write_segmentation(folder / "segmentation", frames, end, [photo for photo in photos if photo[1].any()])
    walkers = _write_walkers(folder / "walkers", frames[:end])
    test = _write_walkers(folder / "walkers_test", frames[end:])
    (folder / "scenes").mkdir()
    for number, frame in enumerate(frames[end + 3 :: 6]):
        _save(folder / "scenes" / f"{number:02d}.jpg", frame.image)
    _save(folder / "scenes" / "empty.jpg", background)
    for path in sorted((packages / PHOTOS).glob("*.jpg")):
        shutil.copyfile(path, folder / "scenes" / path.name)
    return f"{masks} pictures with masks, {walkers} and {test} walkers"


def _read_video(path: Path) -> Pixels:
    with av.open(str(path)) as container:
        return np.stack(
            [
                frame.to_ndarray(format="rgb24")
                for number, frame in enumerate(container.decode(video=0))
                if number % STEP == 0
            ]
        )


def _frame(image: Pixels, background: Pixels) -> Frame:
    differs = np.abs(image.astype(np.int16) - background).max(axis=2) > 30
    mask = ndimage.gaussian_filter(differs.astype(np.float32), 1.5) > 0.4
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=3))
    regions, _ = ndimage.label(ndimage.binary_opening(mask, iterations=2), np.ones((3, 3)))
    regions[np.bincount(regions.ravel())[regions] < SMALLEST_PX] = 0
    regions, _ = ndimage.label(regions, np.ones((3, 3)))
    return Frame(image, regions, ndimage.find_objects(regions))


def _photo(path: Path) -> tuple[Pixels, Mask]:
    """Read a photograph and the polygons of its people."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    with Image.open(path.with_suffix(".jpg")) as picture:
        image = np.asarray(picture.convert("RGB"))
    canvas = Image.new("L", (image.shape[1], image.shape[0]))
    for shape in document["shapes"]:
        if shape["label"] == "person":
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], fill=1)
    return image, np.asarray(canvas) > 0


def _write_segmentation(folder: Path, frames: Sequence[Frame], end: int, photos: Sequence[tuple[Pixels, Mask]]) -> int:
    """Write whole frames and parts of frames at several scales, and parts of photographs; return their number."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    total = 0
    for split, pool in (("train", frames[:end]), ("val", frames[end:])):
        pairs = list(_parts(rng, pool, SIZES[split]))
        if split == "train":
            pairs += [_part(rng, *photo, 0.6) for photo in photos for _ in range(SIZES[split] // 10)]
        names = [f"{number:04d}" for number in range(total, total + len(pairs))]
        for name, (image, mask) in zip(names, pairs, strict=True):
            _save(folder / "images" / f"{name}.jpg", image)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
        write_table(
            folder / f"{split}.csv",
            ["image_path", "mask_path"],
            ([f"images/{name}.jpg", f"masks/{name}.png"] for name in names),
        )
        total += len(pairs)
    return total


def _parts(rng: np.random.Generator, frames: Sequence[Frame], count: int) -> Iterator[tuple[Pixels, Mask]]:
    for number in np.linspace(0, len(frames) - 1, count).round().astype(int):
        frame = frames[number]
        yield _part(rng, frame.image, frame.mask, 0.25 if rng.random() < 0.6 else 1)


def _part(rng: np.random.Generator, image: Pixels, mask: Mask, smallest: float) -> tuple[Pixels, Mask]:
    """Cut out a random part of at least this share of each side, round a pixel of a person where there is one."""
    scale = rng.uniform(smallest, min(1.0, 2 * smallest))
    height, width = (round(scale * side) for side in mask.shape)
    people_at = np.argwhere(mask)
    centre = people_at[rng.integers(len(people_at))] if len(people_at) else np.array(mask.shape) // 2
    shift = rng.uniform(-0.3, 0.3, 2) * (height, width)
    top, left = (
        int(np.clip(middle + move - side / 2, 0, whole - side))
        for middle, move, side, whole in zip(centre, shift, (height, width), mask.shape, strict=True)
    )
    place = slice(top, top + height), slice(left, left + width)
    return image[place], mask[place]


def _write_walkers(folder: Path, frames: Sequence[Frame]) -> int:
    """Write a picture of each person who stands alone and walks to the left or to the right; return their number.

    Each picture is written mirrored too, as a walker in the other direction.
    """
    count = 0
    for label in DIRECTIONS:
        (folder / label).mkdir(parents=True)
    for now, later in zip(frames, frames[LATER:], strict=False):
        for number, box in enumerate(now.boxes, start=1):
            direction, place = _direction(box, later.boxes), _surroundings(box, now.mask.shape)
            if (
                direction is None
                or (np.unique(now.regions[place]) > 0).sum() != 1
                or now.regions[place].max() != number
            ):
                continue
            _save(folder / direction / f"{count:04d}.jpg", now.image[place])
            _save(folder / DIRECTIONS[direction] / f"{count:04d}_mirrored.jpg", now.image[place][:, ::-1])
            count += 2
    return count


def _direction(box: tuple[slice, slice], later: Sequence[tuple[slice, slice]]) -> str | None:
    """Return where an upright region has moved, by the region of its height that is nearest later; None if unclear."""
    rows, columns = box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    near = [
        (other[1].start + other[1].stop - columns.start - columns.stop) / 2
        for other in later
        if abs(other[0].stop - rows.stop) < 0.3 * height
        and abs((other[0].stop - other[0].start) / height - 1) < 0.2
        and abs((other[1].start + other[1].stop - columns.start - columns.stop) / 2) < height
    ]
    if len(near) != 1 or height < 1.6 * width or abs(near[0]) < MOVED_PX:
        return None
    return "right" if near[0] > 0 else "left"


def _surroundings(box: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = box
    margin = round(WALKER_MARGIN * (rows.stop - rows.start))
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    return slice(top, min(shape[0], rows.stop + margin)), slice(left, min(shape[1], columns.stop + margin))


def _save(path: Path, image: Pixels) -> None:
    Image.fromarray(image).save(path, quality=92)
