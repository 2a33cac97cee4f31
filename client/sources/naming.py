"""Names and relative paths of pictures."""

from __future__ import annotations

import re
from pathlib import PurePath
from urllib.parse import unquote

from tritonkit.images.picture_files import SkippedFiles, has_picture_suffix, is_below_hidden
from tritonkit.remotes.addresses import is_web, public_name

_MAX_PART = 200
"""Characters of a file name; file systems allow 255 bytes."""


def is_picture_member(path: str, skipped: SkippedFiles) -> bool:
    """Whether an archive's member has the name of an image. Other members are counted, except hidden ones."""
    if is_below_hidden(path):
        return False
    name = path.rpartition("/")[2]
    if not has_picture_suffix(name):
        skipped.add(name)
        return False
    return True


def safe_relative_path(text: str) -> PurePath:
    """Return a relative path that stays below any folder, without `..` and without invalid characters."""
    parts = (part.replace("\0", "") for part in re.split(r"[/\\]", text))
    safe_parts = [part[-_MAX_PART:] for part in parts if part not in ("", ".", "..")]
    return PurePath(*safe_parts) if safe_parts else PurePath("picture")


def public_relative_path(address: str) -> PurePath:
    """Return host and path of an address."""
    name = public_name(address).partition("://")[2]
    return safe_relative_path(unquote(name.partition("?")[0]) if is_web(address) else name)
