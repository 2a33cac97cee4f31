"""Pretrained weights of timm and torchvision: whether they are in the cache or can be downloaded."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from tritonkit.errors import ExternalError

_TIMEOUT_S = 10.0
_DEFAULT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files that timm searches for, in this order, if a model's configuration names none."""


def check_available(name: str, config: Any) -> None:
    """Check that weights are in the cache or can be downloaded. Raises ExternalError.

    The hub's own library would retry for a minute and log each attempt.

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
        return  # an older repository has one of the other file names
    except Exception as error:  # the errors of the hub and its network library share no base class
        raise _unavailable_error(name, config.hf_hub_id, error) from error


def check_url_available(name: str, url: str) -> None:
    """Check that the weights at a URL are in the cache or can be downloaded. Raises ExternalError."""
    if cached_download(url) is not None:
        return
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT_S):  # noqa: S310 - torchvision's https URL
            return
    except (OSError, HTTPException) as error:
        raise _unavailable_error(name, url, error) from error


def cached_download(url: str) -> Path | None:
    """Return torch's cached file of a URL, None if it was not downloaded."""
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
    return file if file.is_file() else None


def weights_file(config: Any) -> Path | None:
    """Return the file of the weights after they were loaded, None if unknown."""
    if config.file:
        return Path(config.file)
    if (cached := _cached_file(config)) is not None:
        return cached
    return cached_download(config.url) if config.url else None


def _unavailable_error(name: str, place: str, error: Exception) -> ExternalError:
    cause = str(error).strip().splitlines() or [type(error).__name__]
    return ExternalError(
        f"{name}: the pretrained weights ({place}) are not in the cache and cannot be downloaded: "
        f"{cause[0]}. Connect this machine to the network, or use a file with the weights: "
        f"builder export FILE --model {name} --labels FILE, or model.weights=FILE in a training",
        code="weights.download",
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
    filename: str | None = config.hf_hub_filename
    if filename is None:
        return _DEFAULT_FILES
    return tuple(dict.fromkeys((filename.replace("pytorch_model.bin", "model.safetensors"), filename)))
