"""What pictures are called, where they lie, and what is an address."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from urllib.parse import SplitResult, unquote, urlsplit

from client.picture import as_text
from model.picture_files import SkippedFiles, has_picture_suffix, is_below_hidden

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_USER = re.compile(r"(?<=://)[^/?#]*@")
_MAX_PART = 200
"""Characters of a file's name; file systems take 255 bytes."""

_SIGNATURES = {"sig", "signature", "x-amz-signature", "x-goog-signature"}
# What stands beside a signature: AWS signature versions 2 and 4, CloudFront, Google (the prefixes are below),
# and Azure's shared access signatures.
_SIGNED = _SIGNATURES | {"awsaccesskeyid", "googleaccessid", "expires", "policy", "key-pair-id"}
_SIGNED |= {"sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv"}
_SIGNED_PREFIXES = ("x-amz-", "x-goog-")
_SECRETS = {"token", "access_token", "auth", "key", "api_key", "apikey", "password", "secret", "code"}


def is_address(text: str) -> bool:
    """Whether it begins as `https://` does."""
    return _SCHEME.match(text) is not None


def named_like_picture(path: str, skipped: SkippedFiles) -> bool:
    """Whether a file in an archive is named like a picture; others are counted, but for hidden ones."""
    if is_below_hidden(path):
        return False
    name = path.rpartition("/")[2]
    if not has_picture_suffix(name):
        skipped.add(name)
        return False
    return True


def safe_place(text: str) -> PurePath:
    """A relative path that stays below any folder, from one that may be absolute, hold `..`, or what no file has."""
    parts = (part.replace("\0", "") for part in re.split(r"[/\\]", text))
    kept = [part[-_MAX_PART:] for part in parts if part not in ("", ".", "..")]
    return PurePath(*kept) if kept else PurePath("picture")


def public_name(address: str) -> str:
    """The address as it may be shown: no user and password, no signature, and of secrets in the query a digest.

    It is the same for each signature, so that a job can be taken up with addresses that were signed anew.
    """
    bare = as_text(_USER.sub("", address))
    if not is_web(address):
        return bare
    start, mark, query = bare.partition("#")[0].partition("?")
    fields = query.split("&")
    if _SIGNATURES & {_key(field) for field in fields}:
        fields = [field for field in fields if not _signs(_key(field))]
    shown = "&".join(_digested(field) if _key(field) in _SECRETS else field for field in fields)
    return f"{start}{mark}{shown}" if shown else start


def public_place(address: str) -> PurePath:
    """Host and path."""
    name = public_name(address).partition("://")[2]
    return safe_place(unquote(name.partition("?")[0]) if is_web(address) else name)


def without_secrets(text: str, address: str) -> str:
    """What a library says about an address, without what must not be shown of it."""
    shown = text.replace(address, public_name(address))
    if user := _user(address):
        shown = shown.replace(user, "")
    password = user.rstrip("@").partition(":")[2]
    return shown.replace(password, "***") if password else shown


def is_web(address: str) -> bool:
    """Whether it is fetched with HTTP."""
    return address.lower().startswith(("http://", "https://"))


def path_of(address: str) -> str:
    """The part of an address that ends as a file's name does."""
    return re.split(r"[?#]", address)[0] if is_web(address) else address


def split(address: str) -> SplitResult:
    """Its parts. Raises ValueError."""
    parts = urlsplit(address)
    if not parts.hostname or parts.port == 0:
        raise ValueError("it names no host")
    return parts


def split_host(address: str) -> tuple[str, str]:
    """Scheme and host of an address that is not HTTP's, such as `s3` and the bucket."""
    scheme, _, rest = _USER.sub("", address).partition("://")
    return scheme, rest.partition("/")[0]


def _user(address: str) -> str:
    found = _USER.search(address)
    return found.group() if found else ""


def _key(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()


def _signs(key: str) -> bool:
    return key in _SIGNED or key.startswith(_SIGNED_PREFIXES)


def _digested(field: str) -> str:
    key, _, value = field.partition("=")
    return f"{key}=~{hashlib.sha256(value.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
