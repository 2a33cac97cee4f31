"""A training configuration with no more than what must be there."""

from __future__ import annotations

from typing import Any

from train.config.loading import Config


def tiny_config(**changes: Any) -> Config:
    document = {"name": "x", "data": {"path": "x"}, "model": {"name": "x"}, "image": {"size": 1}}
    return Config.model_validate({**document, **changes})
