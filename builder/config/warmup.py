"""Warm-up with a golden image: Triton runs it at batch 1 and at the largest batch before the model is ready.

Triton reads `input_data_file` from `<model folder>/warmup/` as the raw bytes of one image; for a batch of N it repeats
them N times (core, backend_model_instance.cc).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonkit.images.preprocess import ImageArray
from tritonkit.spec import TensorSpec
from tritonkit.system.files import atomic_write
from tritonkit.triton.model_config import WARMUP_FOLDER, warmup_sizes

WARMUP_FILE = "golden_image.raw"
_SAMPLE = "golden image, batch "


def warmup_files(images: ImageArray) -> dict[str, bytes]:
    """The content of a model's warm-up folder by file name. images: uint8 [N, H, W, 3]; the first is used."""
    return {WARMUP_FILE: images[0].tobytes()}


def write_warmup(model: Path, files: dict[str, bytes]) -> None:
    """Write the files into the warm-up folder of a model. Each file is replaced, because it may be a hard link."""
    for name, content in files.items():
        with atomic_write(model / WARMUP_FOLDER / name) as temporary:
            temporary.write_bytes(content)


def add_warmup(config: Any, image: TensorSpec, data_type: int) -> None:
    """Add warm-up with the golden image to a `ModelConfig`, at batch 1 and at its largest batch."""
    for size in sorted({1, config.max_batch_size}):
        sample = config.model_warmup.add(name=f"{_SAMPLE}{size}", batch_size=size)
        entry = sample.inputs[image.name]
        entry.data_type, entry.input_data_file = data_type, WARMUP_FILE
        entry.dims.extend(image.shape)


def remove_warmup(config: Any) -> bool:
    """Remove the warm-up with the golden image from a `ModelConfig`; returns whether there was one."""
    kept_samples = [sample for sample in config.model_warmup if not sample.name.startswith(_SAMPLE)]
    is_removed = len(kept_samples) < len(config.model_warmup)
    del config.model_warmup[:]
    config.model_warmup.extend(kept_samples)
    return is_removed


def uses_golden_image(config: Any) -> bool:
    """Whether a `ModelConfig` reads the golden image from the warm-up folder."""
    return WARMUP_FILE in warmup_sizes(config)
