"""A folder for TensorBoard's projector: vectors, metadata, thumbnails and their configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from train.embeddings.vectors import ImageVectors, grid_side, thumbnail_sheet
from tritonkit.errors import InputError
from tritonkit.system.files import atomic_write, check_can_write

CONFIG, VECTORS, METADATA, SPRITES = "projector_config.pbtxt", "vectors.tsv", "metadata.tsv", "sprites.png"
MAX_SPRITE_SIDE = 8192
"""A larger texture is not drawn by WebGL on many machines."""
THUMBNAIL_SIDE = 64


def check_projector_folder(folder: Path) -> None:
    """Check that the folder can be written, and that TensorBoard is installed. Raises InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected the name of a folder", code="output.is_file")
    check_can_write(folder / CONFIG)
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "--projector needs TensorBoard; install it with: pip install 'tritonkit[tracking]'",
            code="install.missing_module",
        )


def thumbnail_side(images: int) -> int:
    """Return the longest side of a thumbnail, with which the thumbnails of all images fit on one sprite image."""
    return min(THUMBNAIL_SIDE, MAX_SPRITE_SIDE // max(1, grid_side(images)))


def write_projector(folder: Path, embeddings: ImageVectors, name: str) -> None:
    """Write the folder; `tensorboard --logdir FOLDER` shows it. name: of the tensor.

    Format: github.com/tensorflow/tensorboard, tensorboard/plugins/projector/projector_config.proto.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    sheet, _ = thumbnail_sheet(embeddings.thumbnails)
    with atomic_write(folder / SPRITES) as temporary:
        sheet.save(temporary, "PNG")
    # Text, because TensorBoard takes a file for binary only where its bytes are not UTF-8.
    with atomic_write(folder / VECTORS) as temporary:
        np.savetxt(temporary, embeddings.vectors, fmt="%.7g", delimiter="\t")
    rows = zip(embeddings.pictures, embeddings.answers, strict=True)
    lines = ["label\tanswer\tpath", *("\t".join(map(_cell, (p.label or "", a, str(p.path)))) for p, a in rows)]
    with atomic_write(folder / METADATA) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name=name, tensor_path=VECTORS, metadata_path=METADATA, tensor_shape=embeddings.vectors.shape
    )
    embedding.sprite.image_path = SPRITES
    height, width, _ = embeddings.thumbnails[0].shape
    embedding.sprite.single_image_dim.extend((width, height))
    with atomic_write(folder / CONFIG) as temporary:  # the last: without it TensorBoard shows nothing
        temporary.write_text(text_format.MessageToString(config), encoding="utf-8")


def _cell(text: str) -> str:
    """Return a text without tabs and line breaks, which would begin another cell."""
    return " ".join(text.split())
