"""Weights that timm or torchvision has by name: on this machine already, or to be fetched, which is tried once."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from model.errors import ExternalError

_TIMEOUT_S = 10.0
_DEFAULT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for, in this order, where a model's configuration names no file."""


def check_at_hand(name: str, config: Any) -> None:
    """Raise ExternalError when weights are neither on this machine nor to be fetched.

    The hub's library would try for a minute and tell of each try.

    config: timm's `PretrainedCfg`.
    """
    if config.file or not config.hf_hub_id or _cached_file(config) is not None:
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    try:
        get_hf_file_metadata(
            hf_hub_url(repository, _candidate_files(config)[0], revision=revision or None), timeout=_TIMEOUT_S
        )
    except EntryNotFoundError:
        return  # an older repository, with one of the other names
    except Exception as error:  # the hub's errors and those of its network library share no base class
        raise _unavailable_error(name, config.hf_hub_id, error) from error


def check_url_at_hand(name: str, url: str) -> None:
    """Raise ExternalError when the weights at an address are neither on this machine nor to be fetched."""
    if downloaded(url) is not None:
        return
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT_S):  # noqa: S310 - torchvision's own https address
            return
    except (OSError, HTTPException) as error:
        raise _unavailable_error(name, url, error) from error


def downloaded(url: str) -> Path | None:
    """Where torch keeps what it has fetched from an address, None when it has not."""
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
    return file if file.is_file() else None


def file_of(config: Any) -> Path | None:
    """Where the weights lie after they were loaded, None when timm has them elsewhere."""
    if config.file:
        return Path(config.file)
    if (cached := _cached_file(config)) is not None:
        return cached
    return downloaded(config.url) if config.url else None


def _unavailable_error(name: str, place: str, error: Exception) -> ExternalError:
    cause = str(error).strip().splitlines() or [type(error).__name__]
    return ExternalError(
        f"{name}: its pretrained weights ({place}) are not on this machine and cannot be fetched: "
        f"{cause[0]}. Connect it to the network, or bring the weights in a file: "
        f"builder export FILE --model {name} --labels FILE, or model.weights=FILE in a training"
    )


def _cached_file(config: Any) -> Path | None:
    if not config.hf_hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = config.hf_hub_id.partition("@")
    for file in _candidate_files(config):
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _candidate_files(config: Any) -> tuple[str, ...]:
    named: str | None = config.hf_hub_filename
    if named is None:
        return _DEFAULT_FILES
    return tuple(dict.fromkeys((named.replace("pytorch_model.bin", "model.safetensors"), named)))
