"""Publish a model in an endless loop, each time with another image size.

It imports no torch, so it starts fast: a test starts and kills it many times.
"""

from __future__ import annotations

import sys
from pathlib import Path

from builder.config.triton_config import config_for
from builder.interface import interface_of
from builder.repository.encoded import update_companions
from builder.repository.publish import publication
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config


def republish(repository: Path, preprocess: Preprocess) -> None:
    """Publish the next state of `pets`: the same model with other preprocessing."""
    model = repository / "pets"
    spec = ModelSpec.from_json((model / METADATA_KEY).read_text(), origin="the model")
    image = spec.input.model_copy(update={"shape": (preprocess.height, preprocess.width, 3)})
    spec = spec.model_copy(update={"preprocess": preprocess, "input": image})
    with publication(repository, "pets") as prepared:
        prepared.version_folder.rmdir()
        config = config_for(spec, interface_of(spec), 8, 1, read_config(model))
        for name, text in ((CONFIG_FILE, config_to_text(config)), (METADATA_KEY, spec.to_json())):
            (prepared.model / name).unlink()
            (prepared.model / name).write_text(text)
        update_companions(prepared.companions, repository, config)


if __name__ == "__main__":
    print("started", flush=True)
    side = 32
    while True:
        side = 96 - side
        republish(Path(sys.argv[1]), Preprocess(height=side, width=side))
