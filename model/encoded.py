"""The two models beside a model that have it take encoded pictures, and how they are told from others.

`NAME_decode` turns a JPEG, PNG or WebP into the pixels that `NAME` takes; `NAME_encoded` is Triton's ensemble of both.
"""

from __future__ import annotations

from collections.abc import Iterable

from model.triton_backends import ModelConfig

ENCODED_OF = "encoded_of"
"""Parameter of both, with the name of the model they belong to."""
ENCODED_INPUT = "encoded"
"""Their input: BYTES [N, 1], a whole picture file in each."""
_DECODER, _ENSEMBLE = "_decode", "_encoded"


def decoder_of(model: str) -> str:
    """The name of the model that decodes for `model`."""
    return f"{model}{_DECODER}"


def ensemble_of(model: str) -> str:
    """The name of the ensemble that takes encoded pictures for `model`."""
    return f"{model}{_ENSEMBLE}"


def belongs_to(config: ModelConfig) -> str:
    """The model that one with this configuration decodes for, alone or as its ensemble; empty for any other."""
    text: str = config.parameters[ENCODED_OF].string_value if ENCODED_OF in config.parameters else ""
    return text


def without_encoded(names: Iterable[str]) -> list[str]:
    """Names of models in order, without the decoders and ensembles of others among them."""
    present = set(names)
    companions = {name for one in present for name in (decoder_of(one), ensemble_of(one))}
    return sorted(present - companions)
