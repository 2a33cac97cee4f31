"""Convert images from Debian packages to the folders and tables that the example trainings read.

fashion/{train,test}/<label>/<n>.png    Fashion-MNIST: 20,000 and 10,000 pictures of ten classes
mosaics/{train,test}.csv                2x2 mosaics of them, with every label that is in the mosaic
units/{train,val,test}/<class>/<n>.png  sprites of Wesnoth's units, split by class
stamps/{train,val}.csv                  cut-outs pasted on photographs, and their masks
people/                                 people in a video and in photographs (scripts/data/people.py)

An existing part is kept: remove its folder to create it again.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.data.people import people
from scripts.data.tables import write_table

Pixels = NDArray[np.uint8]

FASHION = "debian/dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
LABELS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot")
FASHION_SPLITS = {"train": ("train", 2_000), "test": ("t10k", 1_000)}  # the file's prefix, pictures of each class
MOSAICS = {"train": 12_000, "test": 2_000}

UNITS = "debian/wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/core/images/units"
UNIT_SIDES_PX = (24, 200)
UNIT_OPAQUE_PX = 200  # flames and shadows that the game lays over a unit have fewer
UNIT_PICTURES = 4

STAMPS = "debian/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
STAMP_FILL = 0.4  # of its box that a stamp fills at least: thin legs and wings are lost in small pictures
SCENES = {"train": 1500, "val": 240}
# Photographs without an animal, fruit or flower of their own, which no mask would show; one of each stereo pair.
PHOTOS = {
    "skimage/data": ["astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"],
    "debian/opencv-doc/usr/share/doc/opencv-doc/examples": [
        "alphamat/input_images/plant.jpg",
        *(f"data/{name}.jpg" for name in ("aero1", "aero3", "aloeL", "board", "building", "ela_original", "home")),
        *(f"data/{name}.jpg" for name in ("left", "left06", "leuvenA", "licenseplate_motion", "messi5", "stuff")),
        *(f"hfs/data/{name}.jpg" for name in ("001", "002")),
        *(f"text/scenetext0{number}.jpg" for number in range(1, 7)),
        *(f"text/scenetext_segmented_word0{number}.jpg" for number in range(1, 6)),
    ],
}


def main(packages: Path, data: Path) -> None:
    """Create the missing parts of `data`, each in a temporary folder that is then renamed."""
    for write_part in (fashion, mosaics, units, stamps, people):
        folder, partial = data / write_part.__name__, data / f".{write_part.__name__}.partial"
        if folder.exists():
            print(f"{folder.name}: exists already")
            continue
        started = time.perf_counter()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        summary = write_part(packages, partial)
        partial.rename(folder)
        print(f"{folder.name}: {summary}, {time.perf_counter() - started:.1f} s", flush=True)


def fashion(packages: Path, folder: Path) -> str:
    """Write one folder for each label, under train/ and test/."""
    for split in FASHION_SPLITS:
        pictures, numbers = _fashion(packages, split)
        for label in LABELS:
            (folder / split / label).mkdir(parents=True)
        names = (folder / split / LABELS[number] / f"{index:05d}.png" for index, number in enumerate(numbers))
        _save_all(names, pictures)
    return " and ".join(
        f"{pictures_per_class * len(LABELS):,} {split}" for split, (_, pictures_per_class) in FASHION_SPLITS.items()
    )


def _fashion(packages: Path, split: str) -> tuple[Pixels, Pixels]:
    """Return the first pictures of each class [N, 28, 28], in the file's order, and the numbers of their labels [N]."""
    prefix, pictures_per_class = FASHION_SPLITS[split]
    pictures = _read_idx(packages / FASHION / f"{prefix}-images-idx3-ubyte.gz")
    numbers = _read_idx(packages / FASHION / f"{prefix}-labels-idx1-ubyte.gz")
    chosen = np.sort(
        np.concatenate([np.flatnonzero(numbers == number)[:pictures_per_class] for number in range(len(LABELS))])
    )
    return pictures[chosen], numbers[chosen]


def _read_idx(path: Path) -> Pixels:
    """Read an IDX file of bytes: the fourth byte counts the axes, whose lengths follow as big-endian uint32."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int))


def _save_all(paths: Iterable[Path], pictures: Pixels) -> None:
    def save(path: Path, pixels: Pixels) -> None:
        Image.fromarray(pixels).save(path, compress_level=1)

    with ThreadPoolExecutor(2) as threads:
        for _ in threads.map(save, paths, pictures):
            pass


def mosaics(packages: Path, folder: Path) -> str:
    """Write mosaics of 56x56 pixels from four random images of a split; the table has a column for each label."""
    rng = np.random.default_rng(0)
    for split, count in MOSAICS.items():
        pictures, numbers = _fashion(packages, split)
        tiles = rng.integers(len(pictures), size=(count, 4))
        joined = pictures[tiles].reshape(count, 2, 2, 28, 28).transpose(0, 1, 3, 2, 4).reshape(count, 56, 56)
        present = (numbers[tiles][:, :, None] == np.arange(len(LABELS))).any(axis=1).astype(int)
        (folder / "images" / split).mkdir(parents=True)
        names = [f"images/{split}/{index:05d}.png" for index in range(count)]
        _save_all((folder / name for name in names), joined)
        rows = ([name, *cells] for name, cells in zip(names, present, strict=True))
        write_table(folder / f"{split}.csv", ["image_path", *LABELS], rows)
    return " and ".join(f"{count:,} {split}" for split, count in MOSAICS.items())


def units(packages: Path, folder: Path) -> str:
    """Copy the sprites; each class is in one split only: 60 % train, 20 % val, 20 % test."""
    classes = _unit_classes(packages / UNITS)
    names = np.random.default_rng(0).permutation(sorted(classes))
    ends = round(0.6 * len(names)), round(0.8 * len(names))
    splits = dict(zip(("train", "val", "test"), np.split(names, ends), strict=True))
    for split, members in splits.items():
        for name in members:
            (folder / split / name).mkdir(parents=True)
            for number, path in enumerate(classes[name]):
                shutil.copyfile(path, folder / split / name / f"{number:02d}.png")
    counts = ", ".join(f"{len(members)} {split}" for split, members in splits.items())
    return f"{sum(map(len, classes.values())):,} pictures of {counts} classes"


def _unit_classes(source: Path) -> dict[str, list[Path]]:
    """Return the pictures of each class `race__unit`, named by the folders and the file name before its first hyphen.

    A unit's own folder does not count twice: dwarves/stalwart-bob-3.png and dwarves/stalwart/stalwart-ne-attack2.png
    are one unit, monsters/fire-dragon.png and monsters/ant/fire-ant.png are two.
    """
    classes: dict[str, list[Path]] = defaultdict(list)
    digests: set[bytes] = set()
    for path in sorted(source.glob("*/**/*.png")):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in digests or not _is_unit_sprite(path):
            continue
        digests.add(digest)
        words = [*path.parent.relative_to(source).parts, path.stem.split("-")[0]]
        classes["__".join(dict.fromkeys(words))].append(path)
    return {name: paths for name, paths in classes.items() if len(paths) >= UNIT_PICTURES}


def _is_unit_sprite(path: Path) -> bool:
    if "halo" in path.stem:
        return False
    with Image.open(path) as picture:
        shortest, longest = UNIT_SIDES_PX
        if min(picture.size) < shortest or max(picture.size) > longest:
            return False
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    return int((alpha >= 128).sum()) >= UNIT_OPAQUE_PX


def stamps(packages: Path, folder: Path) -> str:
    """Write images and masks of the same name and size; the splits share photographs but no stamps."""
    rng = np.random.default_rng(0)
    cut_outs = [path for path in sorted((packages / STAMPS).rglob("*.png")) if _is_photo_stamp(path)]
    mixed = [cut_outs[index] for index in rng.permutation(len(cut_outs))]
    end = round(0.8 * len(cut_outs))
    files = [packages / source / name for source, names in PHOTOS.items() for name in names]
    photos = [Image.open(path).convert("RGB") for path in files]
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    number = 0
    for split, split_paths in zip(SCENES, (mixed[:end], mixed[end:]), strict=True):
        names = [f"{index:04d}" for index in range(number, number + SCENES[split])]
        stamps_of_split = [_cut_out(path) for path in split_paths]
        for name in names:
            picture = _crop(rng, photos[int(rng.integers(len(photos)))])
            mask = Image.new("L", picture.size)
            _paste(rng, picture, mask, stamps_of_split[int(rng.integers(len(stamps_of_split)))])
            picture.save(folder / "images" / f"{name}.jpg", quality=92)
            mask.save(folder / "masks" / f"{name}.png")
        rows = ([f"images/{name}.jpg", f"masks/{name}.png"] for name in names)
        write_table(folder / f"{split}.csv", ["image_path", "mask_path"], rows)
        number += len(names)
    return f"{' and '.join(f'{count} {split}' for split, count in SCENES.items())}, of {len(cut_outs)} stamps"


def _is_photo_stamp(path: Path) -> bool:
    """Whether a stamp is a photograph and fills its box."""
    if "mirror" in path.stem or {"cartoon", "plastic", "toys"} & set(path.parts):
        return False
    return bool((np.asarray(_cut_out(path).getchannel("A")) >= 128).mean() >= STAMP_FILL)


def _cut_out(path: Path) -> Image.Image:
    stamp = Image.open(path).convert("RGBA")
    return stamp.crop(stamp.getchannel("A").getbbox())


def _crop(rng: np.random.Generator, photo: Image.Image) -> Image.Image:
    """Crop 128x96 to 160x120 pixels that show 40 % to 100 % of the photograph's smaller side."""
    width, height = int(rng.integers(128, 161)), int(rng.integers(96, 121))
    scale = rng.uniform(0.4, 1) * min(photo.width / width, photo.height / height)
    left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
    box = (left, top, min(left + width * scale, photo.width), min(top + height * scale, photo.height))
    return photo.resize((width, height), Image.Resampling.BICUBIC, box)


def _paste(rng: np.random.Generator, picture: Image.Image, mask: Image.Image, stamp: Image.Image) -> None:
    """Paste a stamp whose longer side is 60 % to 100 % of the picture's smaller one, wholly inside the picture."""
    scale = rng.uniform(0.6, 1) * min(picture.size) / max(stamp.size)
    scaled = stamp.resize((max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))))
    left = int(rng.integers(picture.width - scaled.width + 1))
    top = int(rng.integers(picture.height - scaled.height + 1))
    picture.paste(scaled, (left, top), scaled)
    mask.paste(255, (left, top), scaled.getchannel("A").point([0] * 128 + [255] * 128))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
