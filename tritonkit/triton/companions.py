"""Names of the two companion models that let a model take encoded images.

`NAME_decode` decodes a JPEG, PNG or WebP to the pixels that `NAME` takes; `NAME_encoded` is Triton's ensemble of both.
"""

from __future__ import annotations

from collections.abc import Iterable

from tritonkit.spec import ENCODED_IMAGE
from tritonkit.triton.backends import ModelConfig

ENCODED_OF = "encoded_of"
"""Parameter of both companions: the name of the model they belong to."""
ENCODED_INPUT = ENCODED_IMAGE.name
"""Input of both companions: BYTES [N, 1], one whole image file each."""
ONE_PROCESS = "one_process"
"""The ensemble's second configuration, `configs/one_process.pbtxt`: tritonkit's own backend decodes and runs the model
in one process. Triton takes it when it is started with this `--model-config-name`."""
ONE_PROCESS_BACKEND = "tritonkit_encoded"
"""The folder in `server/backends`."""
_DECODER, _ENSEMBLE = "_decode", "_encoded"


def decoder_of(model: str) -> str:
    """Return the name of the decoder of `model`."""
    return f"{model}{_DECODER}"


def ensemble_of(model: str) -> str:
    """Return the name of the ensemble that takes encoded images for `model`."""
    return f"{model}{_ENSEMBLE}"


def companions_of(model: str) -> tuple[str, str]:
    """Return the names of the decoder and the ensemble of `model`."""
    return decoder_of(model), ensemble_of(model)


def companion_owner(config: ModelConfig) -> str:
    """Return the model to which a decoder or ensemble with this configuration belongs; empty for other models."""
    text: str = config.parameters[ENCODED_OF].string_value if ENCODED_OF in config.parameters else ""
    return text


def owner_by_name(model: str) -> str:
    """Return NAME of `NAME_encoded`; empty for other names."""
    return model.removesuffix(_ENSEMBLE) if model.endswith(_ENSEMBLE) else ""


def without_encoded(names: Iterable[str]) -> list[str]:
    """Return the sorted names of models without the decoders and ensembles among them."""
    present = set(names)
    companions = {name for model in present for name in (decoder_of(model), ensemble_of(model))}
    return sorted(present - companions)
